"""What is said of a cluster that has no room, or no head any more."""

import socket

import pytest

from kat.errors import WorkerError
from kat.executors import cluster
from kat.executors.cluster import Head, room_message


@pytest.mark.parametrize(
    ("cores", "devices", "machines", "expected"),
    [
        (1, 0, [{"CPU": 2}], "each needs 1 core, and free on the cluster are 1 of 16 cores, 0.5 of 2 graphics devices. "
         "Wait for other work, add machines, or ask for less (--ray_workers)."),
        (4, 1, [{"CPU": 2, "GPU": 1}], "each needs 4 cores and 1 graphics device, and free on the cluster are 1 of 16 "
         "cores, 0.5 of 2 graphics devices. No machine of it is that large. Wait for other work, add machines, or ask "
         "for less (--cpus_per_worker; --gpus_per_worker 0.5, or 0; --ray_workers)."),
        (1, 0.5, [{"CPU": 2}, {"CPU": 1, "GPU": 1}], "each needs 1 core and 0.5 graphics devices, and free on the "
         "cluster are 1 of 16 cores, 0.5 of 2 graphics devices. Wait for other work, add machines, or ask for less "
         "(--gpus_per_worker 0.5, or 0; --ray_workers)."),
    ],
)  # fmt: skip
def test_no_room_names_what_is_needed_and_what_to_type(cores, devices, machines, expected):
    needs = {"CPU": float(cores), "GPU": float(devices)}
    assert room_message(needs, {"CPU": 1.0, "GPU": 0.5}, {"CPU": 16.0, "GPU": 2.0}, machines) == expected


def test_a_head_that_is_gone_is_an_error_after_a_while(clock):
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = Head("{}:{}".format(*server.getsockname()))
        head.look()
    head.look(5.0)  # it was there a moment ago
    with pytest.raises(WorkerError, match=r"head of the cluster at 127.*is gone:.*same command goes on.*local"):
        head.look()
    assert sum(clock.waited) == cluster.AWAY
    assert head.is_gone


def test_a_head_that_comes_back_is_not_gone(clock):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    servers = []
    clock.then = lambda: servers.append(socket.create_server(address))
    head = Head("{}:{}".format(*address))
    head.look()
    assert not head.is_gone
    assert len(servers) == 1
    servers[0].close()


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self):
        self.waited, self.then = [], lambda: None

    def monotonic(self):
        return sum(self.waited)

    def sleep(self, seconds):
        self.waited.append(seconds)
        self.then()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(cluster, "time", clock)
    return clock
