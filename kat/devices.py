"""What this machine computes with: devices, cores and memory."""

from __future__ import annotations

import os

from kat.errors import OptionError


def pick_device(device: str) -> str:
    """Resolve `auto` to cuda, else mps, else cpu. Raises OptionError for a device that is not there."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(d for d in ("cuda", "mps", "cpu") if there[d])
    if not there.get(device.split(":")[0]):
        raise OptionError(f"device is {device}; this machine has {', '.join(d for d, ok in there.items() if ok)}.")
    return device


def cpu_cores() -> int:
    """Count the processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Bytes of memory that this machine has; 8 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a Unix
        return 8 << 30
