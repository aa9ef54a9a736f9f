"""Workers on a Ray cluster, or on a Ray of this machine alone: the one file that names Ray.

A worker is an actor that outlives one kind of work, so that its libraries load once. What happens to lost ones is in
`kat.executors.crew`.

Ray moves arrays between processes by pickle, in memory: whoever may join the cluster may run code on it. No file of
kat's is written that way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import site
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import kat.errors
from kat import __version__
from kat.atomic import as_output_error
from kat.errors import KatError, MissingExtraError, OptionError, WorkerError, first_words
from kat.executor_config import ExecutorOptions
from kat.executors.actor import Actor, handed_over
from kat.executors.base import Arrays
from kat.executors.cluster import GO_ON, REACH, Head, room_message
from kat.executors.crew import Crew
from kat.executors.own_folder import OwnFolder
from kat.executors.pool import Pool
from kat.executors.processes import MALLOC
from kat.executors.surroundings import environment, late_signals, own_signals
from kat.terminal import note

_LOOK = 2.0
"""Seconds between two looks at the head."""


class RayCluster:
    """A Ray cluster, or a Ray of this machine that ends with this object: a `Launcher`.

    Raises MissingExtraError without Ray, WorkerError for a cluster that cannot be reached.
    """

    def __init__(self, options: ExecutorOptions, device: str):
        self.ray = _module()
        self._options = options
        self._folder: OwnFolder | None = None
        self._slices: OwnFolder | None = None  # where workers hand over what they made
        self.pool = Pool(self.end)
        self.head: Head | None = None
        self._is_own = not self.ray.is_initialized()  # else somebody's who uses kat from Python
        try:
            if options.shared_dir is not None:
                with as_output_error(options.shared_dir):
                    self._slices = OwnFolder(options.shared_dir.resolve())
            with late_signals():
                if options.ray_address and not self._is_own:
                    raise OptionError("Ray is started in this process already: leave ray_address out.")
                if options.ray_address:
                    connect(self.ray, options.ray_address)
                elif self._is_own:
                    self._start_here()
            with _plainly("did not say what the cluster has"):
                self.head = Head(self.ray.get_runtime_context().gcs_address)
                self._gpus = self._gpus_per_worker(device)
        except BaseException:
            self.close()
            raise

    @property
    def device(self) -> str | None:
        """Return cuda where workers have a graphics device, else cpu."""
        return "cuda" if self._gpus else "cpu"

    @property
    def threads(self) -> int:
        """Return the threads that a worker may use."""
        return self._options.cpus_per_worker

    @property
    def mixed(self) -> bool:
        """Return whether workers may be of several kinds."""
        return self._options.mixed_workers

    def start(
        self, function: str, settings: Mapping[str, Any], shared: Sequence[np.ndarray] = (), *, alike: bool = False
    ) -> Crew:
        """Return workers that compute one function: see `Launcher`."""
        self.pool.settle()  # before anything is asked of Ray, which would start itself
        work = _Work(self, (__version__, function, dict(settings)), shared)
        return self.pool.start(work, self._options.ray_workers or self._room(), alike=alike and not self.mixed)

    def hire(self) -> Any:
        """Ask the cluster for one more worker; it comes once there is room."""
        assert self.head is not None
        self.head.look()  # Ray waits for one that is away until it ends the process
        variables = {**MALLOC, "OMP_NUM_THREADS": str(self.threads)}
        with _plainly("gave no worker"):
            return (
                self.ray.remote(Actor)
                .options(
                    num_cpus=self._options.cpus_per_worker,
                    num_gpus=self._gpus,
                    max_restarts=0,
                    runtime_env={"env_vars": variables},
                )
                .remote(None if self._slices is None else str(self._slices.path))
            )

    def end(self, actor: Any) -> None:
        """End a worker, whatever it is doing. Does nothing to one that is lost."""
        if self.ray is not None and self.head is not None and not self.head.is_gone:
            with contextlib.suppress(Exception):  # it, or Ray, may be gone
                self.ray.kill(actor)

    def no_room(self) -> str:
        """Say what a worker needs, and what of it the cluster has, and has free. Raises WorkerError if a Ray that was
        started here has lost its only machine: none will come."""
        if self.head is not None:
            self.head.look(_LOOK)
        with _plainly("did not say what the cluster has"):
            free, total = self.ray.available_resources(), self.ray.cluster_resources()
            machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if self._folder is not None and not machines:
            raise WorkerError(
                f"The Ray that was started on this machine lost its raylet: killed, or no memory. {GO_ON}"
            )
        needs = {"CPU": float(self.threads), "GPU": self._gpus}
        return room_message(needs, free, total, machines)

    def close(self) -> None:
        """Let the workers go; end the Ray that was started here, and remove its files."""
        if self.ray is None:
            return
        self.pool.close()
        ray, self.ray = self.ray, None
        if self._is_own:
            with own_signals():
                ray.shutdown()
        for folder in (self._folder, self._slices):
            if folder is not None:
                with contextlib.suppress(OSError):  # the next one removes it
                    folder.remove()

    def _start_here(self) -> None:
        # Ray's sockets lie there, whose paths the system holds to 107 letters.
        with as_output_error(Path("/tmp")):
            self._folder = OwnFolder(Path("/tmp"))
        home = str(Path(kat.errors.__file__).resolve().parent.parent)
        folders = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        if home not in [*folders, *site.getsitepackages()]:
            folders.append(home)
        private = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray keeps one in the home directory
            "PYTHONPATH": os.pathsep.join(folders),
        }
        try:
            logging.getLogger("ray").setLevel(logging.ERROR)
            with environment(private, ["RAY_AUTH_MODE"]), _on_loopback():  # Ray sets that one itself
                note("ray       starts on this machine")
                self.ray.init(
                    address="local",  # whatever RAY_ADDRESS says: no address was named
                    num_cpus=max(_cores(), (self._options.ray_workers or 1) * self._options.cpus_per_worker),
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=str(self._folder.path),
                    **_QUIET,
                )
        except Exception as error:  # Ray's own, of many kinds
            raise WorkerError(f"Ray did not start here: {first_words(error)} --executor local needs none.") from error

    def _gpus_per_worker(self, device: str) -> float:
        """Return the graphics devices of a worker: as told, or one where there are any and the device may be one."""
        there_are = self.ray.cluster_resources().get("GPU", 0)
        if device.split(":")[0] not in ("auto", "cpu", "cuda") or (device.startswith("cuda") and not there_are):
            raise OptionError(f"device is {device}; the cluster has {there_are:g} graphics devices of CUDA.")
        if (asked := self._options.gpus_per_worker) is None:
            return 1.0 if there_are and device.split(":")[0] in ("auto", "cuda") else 0.0
        if asked and asked > there_are:
            raise OptionError(f"gpus_per_worker is {asked:g}; the cluster has {there_are:g} graphics devices.")
        return asked

    def _room(self) -> int:
        """Return how many workers the cluster has room for, 1 at least."""
        with _plainly("did not say what the cluster has"):
            resources = self.ray.cluster_resources()
        room = resources.get("CPU", 1) // self._options.cpus_per_worker
        if self._gpus:
            room = min(room, resources.get("GPU", 0) // self._gpus)
        return max(int(room), 1)


class _Work:
    """One kind of work on a cluster: a `Backend`."""

    def __init__(self, cluster: RayCluster, begin: tuple[Any, ...], shared: Sequence[np.ndarray]):
        assert cluster.head is not None, "the cluster was reached"
        self._ray, self._head, self._begin = cluster.ray, cluster.head, begin
        self._shared: Sequence[np.ndarray] | None = shared  # until they are in Ray's memory
        self._started: dict[Any, Any] = {}  # {worker: reference to what it says as soon as it runs}
        self.hire, self.end, self.no_room = cluster.hire, cluster.end, cluster.no_room
        self.take_back = cluster.pool.take_back

    def begin(self, worker: Any) -> Any:
        self._head.look(_LOOK)
        with _plainly("could not hand out what workers share"):
            if self._shared is not None:
                self._begin += tuple(self._ray.put(array) for array in self._shared)
                self._shared = None
            self._started[worker] = worker.started.remote()
            return worker.begin.remote(*self._begin)

    def has_started(self, worker: Any) -> bool:
        with _plainly("did not say how a worker is"):
            return bool(self._ray.wait([self._started[worker]], timeout=0)[0])

    def give(self, worker: Any, arrays: Arrays) -> Any:
        with _plainly("could not hand out a task"):
            return worker.compute.remote(arrays)

    def wait(self, references: Sequence[Any], seconds: float) -> Sequence[Any]:
        self._head.look(_LOOK)
        if not references:
            time.sleep(seconds)
            return []
        with _plainly("did not wait for answers"):
            return self._ray.wait(list(references), num_returns=1, timeout=seconds)[0]

    def answer(self, reference: Any) -> dict[str, Any] | None:
        with _plainly("could not fetch an answer"):
            try:
                return self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:  # kat's own errors come as answers
                raise WorkerError(f"A worker on Ray met {first_words(error)}") from error
            except self._ray.exceptions.RayError:
                return None

    def arrays(self, answer: dict[str, Any]) -> Arrays:
        return handed_over(answer["file"]) if "file" in answer else answer["arrays"]


_FULL = ("ObjectStoreFullError", "OutOfDiskError")


@contextlib.contextmanager
def _plainly(what: str) -> Iterator[None]:
    """Raise as WorkerError what Ray raises, which is of many kinds, not all of them its own."""
    try:
        yield
    except (KatError, MemoryError):
        raise
    except Exception as error:
        memory = "Its memory for objects is full: give it more (ray start --object-store-memory BYTES). "
        full = memory if type(error).__name__ in _FULL else ""
        raise WorkerError(f"Ray {what}: {first_words(error)} {full}{GO_ON}") from error


_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}


def _module() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            "--executor ray needs Ray, which is not installed. Type: pip install 'ray>=2.52'"
        ) from None
    return ray


def connect(ray: Any, address: str) -> None:
    """Join a cluster. Raises WorkerError in seconds if nobody answers."""
    remedy = (
        "Start one with: ray start --head (and on each other machine: ray start --address HOST:PORT), "
        "or leave --ray_address out to start Ray here."
    )
    if "://" in address:
        raise OptionError(f"ray_address is {address!r}; expected HOST:PORT of the cluster, or auto.")
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise OptionError(f"ray_address is {address!r}; expected HOST:PORT of the cluster, or auto.")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()
        except (OSError, OverflowError) as error:
            raise WorkerError(f"No Ray cluster answers at {address}: {error}. {remedy}") from None
    try:
        with environment({"RAY_USAGE_STATS_ENABLED": "0"}):
            ray.init(address=address, **_QUIET)
    except Exception as error:  # Ray's own, of many kinds: no cluster, another version, another token
        raise WorkerError(f"No Ray cluster could be joined at {address}: {first_words(error)} {remedy}") from error


def _cores() -> int:
    from kat.devices import cpu_cores

    return cpu_cores()


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray take 127.0.0.1 for this machine's address, as it does on macOS: nothing listens to the network then.

    On Linux it replaces that address by one that others can reach, and says no other way to keep it.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
