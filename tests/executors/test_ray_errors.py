"""What Ray raises, whoever it is raised at, is one line of kat's; the stand-in for Ray needs none installed."""

import types

import numpy as np
import pytest

from kat.errors import OptionError, WorkerError
from kat.executor_config import ExecutorOptions
from kat.executors import ray as ours
from kat.executors.ray import RayCluster


class Exceptions:
    class RayError(Exception):
        pass

    class RayTaskError(RayError):
        pass

    class ObjectStoreFullError(RayError):
        pass


class Actor:
    """A handle whose calls return references, counted."""

    def __init__(self, ray):
        self._ray = ray

    def __getattr__(self, name):
        return types.SimpleNamespace(remote=lambda *given: self._ray.called(f"actor.{name}", (name, id(self))))

    def __hash__(self):
        return id(self)


class Ray:
    """A Ray that somebody has started, of which any call may raise: `raises` maps names to errors."""

    exceptions = Exceptions

    def __init__(self):
        self.raises, self.killed = {}, []

    def called(self, name, value):
        if name in self.raises:
            raise self.raises[name]
        return value

    def is_initialized(self):
        return True

    def get_runtime_context(self):
        return types.SimpleNamespace(gcs_address="127.0.0.1:1")

    def cluster_resources(self):
        return self.called("cluster_resources", {"CPU": 2.0})

    def available_resources(self):
        return self.called("available_resources", {})

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def put(self, array):
        return self.called("put", "reference")

    def remote(self, kind):
        class Hiring:
            def options(_, **asked):
                return types.SimpleNamespace(remote=lambda *given: self.called("hire", Actor(self)))

        return Hiring()

    def wait(self, references, num_returns=1, timeout=0):
        return self.called("wait", (references[:1], references[1:]))

    def get(self, reference):
        if reference[0] == "begin":
            return self.called("get", {"facts": {"host": "here"}})
        return self.called("get.compute", {"arrays": [np.zeros(1)]})

    def kill(self, actor):
        self.killed.append(actor)
        self.called("kill", None)


@pytest.fixture
def ray(monkeypatch):
    stand_in = Ray()
    monkeypatch.setattr(ours, "_module", lambda: stand_in)
    monkeypatch.setattr(ours.Head, "look", lambda *_: None)
    return stand_in


@pytest.fixture
def cluster(ray):
    cluster = RayCluster(ExecutorOptions(executor="ray", ray_workers=2), "cpu")
    yield cluster
    cluster.close()


def work(cluster):
    return list(cluster.start("kat.nowhere:f", {}, [np.zeros(3)]).run([(0, [np.zeros(1)]), (1, [np.zeros(1)])]))


def test_the_stand_in_works(cluster):
    assert sorted(number for number, _ in work(cluster)) == [0, 1]
    cluster.close()
    with pytest.raises(OptionError, match="were let go"):
        work(cluster)


@pytest.mark.parametrize("call", ["put", "hire", "wait", "actor.begin", "actor.started", "actor.compute"])
@pytest.mark.parametrize("kind", [Exceptions.RayError, RuntimeError, ValueError])
def test_what_ray_raises_is_an_error_of_kats(ray, cluster, call, kind):
    ray.raises[call] = kind("the head is gone\nand more")
    with pytest.raises(
        WorkerError, match=r"^Ray .*the head is gone\. The same command goes on.*--executor local"
    ) as caught:
        work(cluster)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is ray.raises[call]
    hired = 0 if call == "hire" else 2
    cluster.close()
    assert len(set(ray.killed)) == hired  # none is left


def test_an_answer_that_cannot_be_read(ray, cluster):
    ray.raises["get.compute"] = TypeError("cannot unpickle")
    with pytest.raises(WorkerError, match=r"Ray could not fetch an answer: TypeError cannot unpickle\. The same"):
        work(cluster)


def test_a_full_memory_for_objects_says_how_to_get_more(ray, cluster):
    ray.raises["put"] = Exceptions.ObjectStoreFullError("no space for 12 bytes")
    with pytest.raises(WorkerError, match=r"ObjectStoreFullError no space.*ray start --object-store-memory.*goes on"):
        work(cluster)


def test_ctrl_c_stays_one(ray, cluster):
    ray.raises["put"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        work(cluster)


def test_a_cluster_that_does_not_say_what_it_has(ray):
    ray.raises["cluster_resources"] = RuntimeError("no answer")
    with pytest.raises(WorkerError, match=r"Ray did not say what the cluster has: no answer\. The same command"):
        RayCluster(ExecutorOptions(executor="ray"), "cpu")


def test_a_worker_that_cannot_be_ended_is_no_error(ray, cluster):
    work(cluster)
    ray.raises["kill"] = Exceptions.RayError("gone")
    cluster.close()
    assert len(ray.killed) == 2


def test_a_ray_of_this_machine_without_a_raylet_is_not_waited_for(ray, cluster, monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": False, "Resources": {"CPU": 2.0}}])
    assert "0 of 2 cores" in cluster.no_room()  # of a cluster of somebody's more machines may come
    monkeypatch.setattr(cluster, "_folder", types.SimpleNamespace(remove=lambda: None))
    with pytest.raises(WorkerError, match=r"lost its raylet.*The same command goes on"):
        cluster.no_room()
