"""Cores, memory and number formats: what a container, an emulating GPU or an old torch leaves, from trees made here."""

from __future__ import annotations

import contextlib
import os
import types

import pytest
import torch

from kat import devices

GIB = 1 << 30


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def mount(point, kind="cgroup2", top="/", options="rw"):
    return f"31 23 0:28 {top} {point} rw,relatime shared:9 - {kind} {kind} {options}\n"


V2 = {"proc/self/cgroup": "0::/pod/box\n", "proc/self/mountinfo": mount("/sys/fs/cgroup")}
V1 = {
    "proc/self/cgroup": "5:memory:/pod/box\n4:cpu,cpuacct:/pod/box\n1:name=systemd:/elsewhere\n",
    "proc/self/mountinfo": mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", options="rw,cpu,cpuacct")
    + mount("/sys/fs/cgroup/memory", "cgroup", options="rw,memory")
    + mount("/sys/fs/cgroup/systemd", "cgroup", options="rw,name=systemd"),
}


@pytest.mark.parametrize(
    ("quotas", "cores"),
    [
        ({"pod/box": "200000 100000"}, 2.0),
        ({"pod/box": "max 100000"}, None),
        ({"pod/box": "max 100000", "pod": "150000 100000"}, 1.5),  # what is above counts too
        ({"pod/box": "400000 100000", "pod": "100000 50000", "": "max 100000"}, 2.0),
        ({"pod/box": "5000 100000"}, 0.05),
        ({}, None),
        ({"pod/box": ""}, None),
        ({"pod/other": "100000 100000"}, None),  # not above it
    ],
)
def test_cores_of_version_2(tmp_path, quotas, cores):
    files = {f"sys/fs/cgroup/{group}/cpu.max": text + "\n" for group, text in quotas.items()}
    assert devices.cgroup_cores(tree(tmp_path, V2 | files)) == cores


@pytest.mark.parametrize(
    ("limits", "memory"),
    [
        ({"pod/box/memory.max": f"{2 * GIB}"}, 2 * GIB),
        ({"pod/box/memory.max": "max"}, None),
        ({"pod/box/memory.max": "max", "pod/memory.max": f"{GIB}"}, GIB),
        ({"pod/box/memory.max": f"{2 * GIB}", "pod/box/memory.high": f"{GIB}"}, GIB),
        ({}, None),
    ],
)
def test_memory_of_version_2(tmp_path, limits, memory):
    files = {f"sys/fs/cgroup/{name}": text + "\n" for name, text in limits.items()}
    assert devices.cgroup_memory(tree(tmp_path, V2 | files)) == memory


def test_version_1(tmp_path):
    cpu, memory = (f"sys/fs/cgroup/{name}" for name in ("cpu,cpuacct", "memory"))
    files = {
        f"{cpu}/pod/box/cpu.cfs_quota_us": "-1\n",
        f"{cpu}/pod/box/cpu.cfs_period_us": "100000\n",
        f"{cpu}/pod/cpu.cfs_quota_us": "250000\n",
        f"{cpu}/pod/cpu.cfs_period_us": "100000\n",
        f"{memory}/pod/box/memory.limit_in_bytes": f"{3 * GIB}\n",
        f"{memory}/memory.limit_in_bytes": "9223372036854771712\n",  # none
        "sys/fs/cgroup/systemd/elsewhere/cpu.cfs_quota_us": "1000\n",
        "sys/fs/cgroup/systemd/elsewhere/cpu.cfs_period_us": "100000\n",
    }
    root = tree(tmp_path, V1 | files)
    assert devices.cgroup_cores(root) == 2.5
    assert devices.cgroup_memory(root) == 3 * GIB


def test_a_container_sees_its_group_at_the_top(tmp_path):
    """Docker with version 1 names the host's path in /proc/self/cgroup and mounts that group at the top."""
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc/below\n",
        "proc/self/mountinfo": mount("/sys/fs/cgroup/cpu", "cgroup", "/docker/abc", "rw,cpu,cpuacct")
        + mount("/sys/fs/cgroup/memory", "cgroup", "/docker/abc", "rw,memory"),
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/below/memory.limit_in_bytes": f"{4 * GIB}",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}",
    }
    root = tree(tmp_path, files)
    assert (devices.cgroup_cores(root), devices.cgroup_memory(root)) == (3.0, 2 * GIB)


@pytest.mark.parametrize("path", ["/", "/../../other", "/not/mounted/here"])
def test_paths_of_another_name_space(tmp_path, path):
    files = {"proc/self/cgroup": f"0::{path}\n", "sys/fs/cgroup/cpu.max": "200000 100000"}
    assert devices.cgroup_cores(tree(tmp_path, V2 | files)) == 2.0


def test_both_versions_at_once(tmp_path):
    files = {
        "proc/self/cgroup": "4:cpu:/a\n0::/b\n",
        "proc/self/mountinfo": mount("/sys/fs/cgroup/unified")
        + mount("/sys/fs/cgroup/cpu", "cgroup", options="rw,cpu"),
        "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "400000",
        "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/unified/b/cpu.max": "300000 100000",
    }
    assert devices.cgroup_cores(tree(tmp_path, files)) == 3.0


def test_without_a_list_of_mounts(tmp_path):
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "100000 100000"}
    assert devices.cgroup_cores(tree(tmp_path, files)) == 1.0


@pytest.mark.parametrize("files", [{}, {"proc/self/cgroup": "nonsense\n\n::\n", "proc/self/mountinfo": "x - \n - y\n"}])
def test_a_machine_without_groups(tmp_path, files):
    root = tree(tmp_path, files)
    assert devices.cgroup_cores(root) is None
    assert devices.cgroup_memory(root) is None


@pytest.mark.parametrize(
    ("share", "affinity", "cores"), [(None, 64, 64), (2.0, 64, 2), (2.5, 64, 3), (0.1, 64, 1), (8.0, 4, 4)]
)
def test_cores_are_the_smaller_of_both(monkeypatch, share, affinity, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(devices, "cgroup_cores", lambda: share)
    assert devices.cpu_cores() == cores


def test_memory_is_the_smaller_of_both(monkeypatch):
    monkeypatch.setattr(devices, "cgroup_memory", lambda: None)
    machine = devices.memory_bytes()
    for limit in (1 << 20, machine, 1 << 60):
        monkeypatch.setattr(devices, "cgroup_memory", lambda limit=limit: limit)
        assert devices.memory_bytes() == min(machine, limit)


@pytest.fixture
def small_pod(tmp_path, monkeypatch):
    """2 CPU and 2 GiB on a node of 64 cores and 512 GiB."""
    root = tree(
        tmp_path,
        V2 | {"sys/fs/cgroup/pod/cpu.max": "200000 100000", "sys/fs/cgroup/pod/memory.max": f"{2 * GIB}"},
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    node, asked = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": (512 * GIB) // 4096}, os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: node.get(name) or asked(name))
    cores, memory = devices.cgroup_cores, devices.cgroup_memory
    monkeypatch.setattr(devices, "cgroup_cores", lambda: cores(root))
    monkeypatch.setattr(devices, "cgroup_memory", lambda: memory(root))


@pytest.mark.parametrize(("parameters", "processes", "threads"), [(22_700_000, 1, 2), (5_000_000, 2, 1)])
def test_workers_fit_the_pod(small_pod, parameters, processes, threads):
    """A quarter of 2 GiB holds one MiniLM (4 bytes a parameter and 200 MB of Python), two of a smaller one."""
    from kat.embedding.workers import worker_devices

    engine = types.SimpleNamespace(
        device=torch.device("cpu"), loaded=types.SimpleNamespace(meta={"parameters": parameters})
    )
    assert worker_devices(engine, None) == (["cpu"] * processes, threads)
    assert worker_devices(engine, 5) == (["cpu"] * 5, 1)  # what is asked for is given


@contextlib.contextmanager
def torch_set_to(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_this_process_keeps_to_the_pod(small_pod):
    """What torch is set to holds below the limit, and comes back afterwards."""
    for set_to, used in ((16, 2), (2, 2), (1, 1)):
        with torch_set_to(set_to):
            assert devices.compute_threads() == used
            with devices.torch_threads():
                assert torch.get_num_threads() == used
            assert torch.get_num_threads() == set_to


def test_the_search_and_the_encoder_keep_to_the_pod(small_pod, monkeypatch):
    import numpy as np

    from kat.embedding import encoder, workers
    from kat.neighbors import exact

    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    seen = []
    engine = types.SimpleNamespace(multiplied=1, vectors=lambda tokens: seen.append(torch.get_num_threads()))
    own = encoder.Encoder("minilm")
    own._engine = engine
    monkeypatch.setattr(workers, "worker_devices", lambda *_: (["cpu"], 2))
    with torch_set_to(8):
        assert exact.prepare(rows, 3).threads == 2
        assert exact.prepare(rows, 3, threads=5).threads == 5
        assert list(own._pooled_packs(iter([(0, [rows[0]])]), 4)) == [(0, None)]
    assert seen == [2]


# ---- bfloat16


@pytest.fixture
def gpu(monkeypatch):
    """Pretend a GPU of a compute capability; as torch's own function sees it."""

    def pretend(major, minor, hip=None):
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda d=None: types.SimpleNamespace(major=major, minor=minor)
        )
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda d=None: (major, minor))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "device", lambda d: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda d: True, raising=False)
        monkeypatch.setattr(torch.version, "hip", hip)

    return pretend


@pytest.mark.parametrize(
    ("capability", "precision"), [((7, 0), "float32"), ((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")]
)
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("old", [False, True])
def test_emulation_is_not_taken(gpu, monkeypatch, capability, precision, device, old):
    """A T4 (7.5) emulates bfloat16, slower than float32: neither kat's encoder nor a loaded model takes it."""
    from kat.embedding.engine import pick_precision
    from kat.models.load import _number_format

    gpu(*capability)
    if old:  # a torch whose function has no argument and counts emulation
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert pick_precision("auto", device) == precision
    assert _number_format("auto", device) == getattr(torch, precision)
    assert pick_precision("bfloat16", device) == "bfloat16"  # what is asked for is given


def test_rocm_multiplies_bfloat16(gpu, monkeypatch):
    gpu(9, 0, hip="6.0")
    assert devices.multiplies_bfloat16("cuda")


@pytest.mark.parametrize(("flags", "there"), [("fpu avx512f avx512_bf16 amx_tile", True), ("fpu avx512f", False)])
def test_a_torch_that_cannot_be_asked(tmp_path, monkeypatch, flags, there):
    """torch 2.4 has no `_is_avx512_bf16_supported`; the processor's own list of flags has the same answer."""
    root = tree(tmp_path, {"proc/cpuinfo": f"processor\t: 0\nmodel name\t: X avx512_bf16\nflags\t\t: {flags}\n"})
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert devices._cpu_multiplies_bfloat16(root) is there
    assert devices._cpu_multiplies_bfloat16(tmp_path / "nothing") is False


def test_both_ways_agree_here(monkeypatch):
    if not os.path.exists("/proc/cpuinfo") or not hasattr(torch.cpu, "_is_avx512_bf16_supported"):
        pytest.skip("no /proc/cpuinfo, or a torch that cannot be asked")
    asked = devices.multiplies_bfloat16("cpu")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert devices.multiplies_bfloat16("cpu") == asked


def test_other_devices_stay_with_float32():
    assert not devices.multiplies_bfloat16("mps")
    assert not devices.multiplies_bfloat16("xpu:0")
