"""What this machine computes with: devices, cores and memory, and what of them a container leaves to this process."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from kat.errors import OptionError

_ROOT = Path("/")


def pick_device(device: str) -> str:
    """Resolve `auto` to cuda, else mps, else cpu. Raises OptionError for a device that is not there."""
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(d for d in ("cuda", "mps", "cpu") if available[d])
    if not available.get(device.split(":")[0]):
        raise OptionError(f"device is {device}; this machine has {', '.join(d for d, ok in available.items() if ok)}.")
    return device


def multiplies_bfloat16(device: str) -> bool:
    """Tell whether a device has circuits for bfloat16 products; emulated ones are slower than float32."""
    kind, _, index = device.partition(":")
    if kind == "cuda":
        return _cuda_multiplies_bfloat16(int(index) if index else None)
    return kind == "cpu" and _cpu_multiplies_bfloat16()


def _cuda_multiplies_bfloat16(index: int | None) -> bool:
    import torch

    with torch.cuda.device(index) if index is not None else contextlib.nullcontext():
        try:
            return torch.cuda.is_bf16_supported(including_emulation=False)
        except TypeError:  # an older torch does not tell the two apart: from Ampere on it is the circuits'
            return bool(torch.version.hip) or torch.cuda.get_device_capability()[0] >= 8


def _cpu_multiplies_bfloat16(root: Path = _ROOT) -> bool:
    """Ask torch, else (before 2.5 it has no such name, and none of it is public) what Linux says of the processor."""
    import torch

    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    if asked is not None:
        return bool(asked())
    lines = _lines(root / "proc/cpuinfo")
    return any("avx512_bf16" in line.split() for line in lines if line.startswith("flags"))


def arithmetic(device: str) -> dict[str, str]:
    """Return what the rounding of a computation on a device depends on: the device, its instructions, torch's build.

    Two machines that say otherwise round otherwise; what says the same may still, where a library looks at more (the
    processor's maker, the sizes of its caches).
    """
    import torch

    kind, _, index = device.partition(":")
    if kind == "cuda":
        instructions = torch.cuda.get_device_name(int(index) if index else None)
    else:
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_amx_fp16_supported", "_is_vnni_supported")
        has = [
            name.removeprefix("_is_").removesuffix("_supported") for name in names if getattr(torch.cpu, name, bool)()
        ]
        instructions = " ".join([torch.backends.cpu.get_cpu_capability(), *has]) if kind == "cpu" else kind
    return {"device": kind, "instructions": instructions, "torch": torch.__version__}


def cpu_cores() -> int:
    """Count the processor cores that this process may use: its affinity, and its container's share of time.

    A share that is no whole number is rounded up: 2.5 cores are three threads that each get five sixths of one.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cgroup_cores()
    return cores if share is None else max(1, min(cores, math.ceil(share)))


def memory_bytes() -> int:
    """Bytes of memory that this process may use: the machine's (8 GiB where it does not say) or its container's."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a Unix
        memory = 8 << 30
    limit = cgroup_memory()
    return memory if limit is None else min(memory, limit)


def compute_threads() -> int:
    """Threads for a computation in this process: torch's own number (OMP_NUM_THREADS), and no more than the cores.

    torch counts the machine's cores, not a container's share of them: on a node of 64 cores, 2 of which are a
    process's, 64 threads would each run a thirtieth of the time and wait for each other.
    """
    import torch

    return min(torch.get_num_threads(), cpu_cores())


@contextlib.contextmanager
def torch_threads() -> Iterator[None]:
    """Let torch use `compute_threads` in this process, and as many as before afterwards."""
    import torch

    before, threads = torch.get_num_threads(), compute_threads()
    if threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before:
            torch.set_num_threads(before)


def cgroup_cores(root: Path = _ROOT) -> float | None:
    """Return the cores' worth of time that the control groups of this process allow; None without a limit.

    cpu.max of version 2 ("QUOTA PERIOD", in microseconds, or "max PERIOD"), cpu.cfs_quota_us over cpu.cfs_period_us of
    version 1 (-1: no limit), the smallest of the group and all above it. `root` is where /proc and /sys lie.
    Source: Linux, Documentation/admin-guide/cgroup-v2.rst and Documentation/scheduler/sched-bwc.rst.
    """
    shares = []
    for folder in _groups(root, "cpu"):
        quota, period = [*_words(folder / "cpu.max"), "", ""][:2]
        if not quota:
            quota, period = (" ".join(_words(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
        if _is_count(quota) and _is_count(period):
            shares.append(int(quota) / int(period))
    return min(shares, default=None)


def cgroup_memory(root: Path = _ROOT) -> int | None:
    """Return the bytes of memory that the control groups of this process allow; None without a limit.

    memory.max and memory.high of version 2 (above the one it is killed, above the other slowed to a crawl),
    memory.limit_in_bytes of version 1, whose absence of a limit is a number above any machine's memory; the smallest
    of the group and all above it.
    """
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    words = [word for folder in _groups(root, "memory") for name in names for word in _words(folder / name)[:1]]
    return min((int(word) for word in words if _is_count(word)), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups that may limit a controller: its own, then those above."""
    paths = dict(_memberships(root))
    for served, top, mount in _mounts(root):
        path = paths.get("" if "" in served else controller)
        if path is None or not {"", controller} & served:
            continue
        below = PurePosixPath(path)
        # A container sees its own group as the mount's top, whatever path the host knows it by; a path that is not
        # below the top (of another name space: "/../x") is not to be seen here, so the top is the nearest.
        below = below.relative_to(top) if below.is_relative_to(top) and ".." not in below.parts else PurePosixPath()
        for part in (below, *below.parents):
            yield mount / part


def _memberships(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (controller, path) of /proc/self/cgroup, whose lines are "4:cpu,cpuacct:/a/b"; "" stands for version 2."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for controller in controllers.split(","):
            yield controller, path or "/"


def _mounts(root: Path) -> Iterator[tuple[set[str], str, Path]]:
    """Yield (controllers, the group at the top, folder) of /proc/self/mountinfo; the usual ones without that file."""
    lines = _lines(root / "proc/self/mountinfo")
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, (kind, *_, options) = before.split(), [*after.split(), "", ""][:3]
        if kind in ("cgroup", "cgroup2") and len(fields) > 4:
            yield {""} if kind == "cgroup2" else set(options.split(",")), fields[3], root / fields[4].lstrip("/")
    if not lines:
        yield {""}, "/", root / "sys/fs/cgroup"
        for name in ("cpu", "cpu,cpuacct", "memory"):
            yield set(name.split(",")), "/", root / "sys/fs/cgroup" / name


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of the system's; none if it is not there or not to be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _is_count(word: str) -> bool:
    """Tell whether a word is a number above 0; -1 and "max" mean no limit."""
    return word.isascii() and word.isdigit() and int(word) > 0
