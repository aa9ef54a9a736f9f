"""Damaged artefacts and models end in an error of kat's, here for a few hundred cases, and what reads them says so."""

import io
import json
import os
import pwd
import subprocess
import sys

import numpy as np
import pytest
from making_training import tiny_chat_model

import kat
from faults import fuzz_artefacts
from faults.artefacts import build
from kat.arrays import load_array
from kat.artifacts import manifest_bytes, read_manifest
from kat.atomic import atomic_file, saving
from kat.config import SampleOptions, base_directory
from kat.digests import sha256_file
from kat.errors import InputError, MismatchError, ModelError, OptionError, OutputError, translated
from kat.journal import kept_array


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    """One of everything, in a folder of the name that the readers know."""
    folder = tmp_path_factory.mktemp("fuzz") / "made"
    folder.mkdir()
    return build(folder)


def test_no_damage_ends_in_an_exception_of_somebody_elses(artefacts):
    assert [str(failure) for failure in fuzz_artefacts.fuzz(100, seed=0, made=artefacts)] == []


def test_a_foreign_exception_is_seen(artefacts, monkeypatch):
    def broken(folder):
        raise LookupError("of somebody else's")

    monkeypatch.setattr(fuzz_artefacts, "READERS", [fuzz_artefacts.Reader("broken", "kept", "*/*", broken)])
    failures = fuzz_artefacts.fuzz(2, seed=0, made=artefacts)
    assert ["LookupError" in failure.error for failure in failures] == [True, True]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("options", []),
        ("outputs", []),
        ("pairs_path", 7),
        ("items_path", "a\0b"),
        ("left_out", "x"),
        ("recall", "1"),
        ("inputs_at", 3),
        ("inputs_at", {"pairs": None}),
        ("beside", []),
    ],
)
def test_a_manifest_of_other_types_is_none(tmp_path, name, value):
    whole = {"stage": "s", "kat_version": "1", "manifest_version": 3, "inputs": {}, "options": {}, "outputs": {}}
    (tmp_path / "manifest.json").write_bytes(manifest_bytes(whole))
    assert read_manifest(tmp_path) is not None
    (tmp_path / "manifest.json").write_bytes(manifest_bytes(whole | {name: value}))
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize(
    "header", ["{'descr': '<f4'", "(" * 5000, "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"]
)
def test_an_array_with_a_wrong_header_is_named(tmp_path, header):
    text = header.encode() + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64))
    with pytest.raises(MismatchError, match=r"a\.npy is no array that kat can read"):
        load_array(tmp_path / "a.npy")
    assert kept_array(tmp_path / "a.npy", (1,), np.float32) is None


def test_an_array_of_the_other_byte_order_is_read(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(3, dtype=">f4"))
    array = load_array(tmp_path / "a.npy")
    assert array.dtype.isnative
    assert array.tolist() == [0, 1, 2]


def test_a_pipe_in_a_files_place_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(InputError, match="no regular file"):
        read_manifest(tmp_path)
    with pytest.raises(InputError, match="no regular file"):
        sha256_file(tmp_path / "a.npy")
    with pytest.raises(MismatchError, match="no regular file"):
        load_array(tmp_path / "a.npy")
    with pytest.raises(OutputError, match="not a file that can be written"), atomic_file(tmp_path / "a.npy"):
        pass
    assert not (tmp_path / "a.npy").is_file()


def test_what_says_nothing_of_a_file_passes():
    for raised in (MemoryError, KeyboardInterrupt):
        with pytest.raises(raised), translated(InputError, "x"):
            raise raised
    with pytest.raises(OutputError), translated(InputError, "x"):
        raise OutputError("y")
    with pytest.raises(InputError, match=r"^x: KeyError 'a'\. Again\.$"), translated(InputError, "x", "Again."):
        raise KeyError("a")


def test_a_full_disk_is_an_error_of_output():
    import torch

    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"out\.pt cannot be written"), saving("out.pt"):
        torch.save({"a": torch.zeros(100_000)}, Full())


@pytest.mark.parametrize(
    "template",
    ["{{ 1/0 }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ ''.__class__.__mro__ }}", "{{ '\\ud800' }}"],
)
def test_a_template_that_fails_is_an_error_of_the_model(tmp_path, template):
    loaded = kat.load_model(tiny_chat_model(tmp_path / "m", template), device="cpu")
    with pytest.raises(ModelError, match="chat template refuses"):
        loaded.chat.text([{"role": "user", "content": "a"}])


@pytest.mark.parametrize(
    "damage", [{"parameters": []}, {"progress": {"step": "x"}}, {"optimizer": 1}], ids=lambda one: next(iter(one))
)
def test_a_damaged_state_of_a_training_says_what_to_remove(tmp_path, damage):
    import torch

    from faults.artefacts import train

    model = tiny_chat_model(tmp_path / "m", blocks=1)
    train(tmp_path / "kept", model)
    state = torch.load(tmp_path / "kept" / "state.pt", weights_only=True)
    torch.save(state | damage, tmp_path / "kept" / "state.pt")
    with pytest.raises(OutputError, match="to start over"):
        train(tmp_path / "kept", model)


def test_no_home_is_said(monkeypatch):
    def unknown(_):
        raise KeyError

    for name in ("HOME", "KAT_BASE_DIR", "NANOCHAT_BASE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(OutputError, match="Set KAT_BASE_DIR"):
        base_directory()


def test_a_closed_stdout_ends_well(tmp_path):
    """The file that a command opens must not get the number of stdout: what is printed would end in it."""
    np.save(tmp_path / "density_weights.npy", np.ones(3, np.float32))
    (tmp_path / "ids.json").write_text(json.dumps(["a", "b", "c"]))
    code = "from kat.cli.main import main; main(['sample', '.', '--budget', '3', '--out', 's.txt'])"
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    ran = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&- 2>&- <&-', sys.executable, code], cwd=tmp_path, env=environment, check=False
    )
    assert ran.returncode == 0
    assert (tmp_path / "s.txt").read_bytes() == b"a\nb\nc\n"


def test_a_config_nested_too_deep_is_named(tmp_path, kat_cli):
    (tmp_path / "c.toml").write_text("a = " + "[" * 10_000 + "]" * 10_000)
    assert "nested too deep" in kat_cli("models", "--config", tmp_path / "c.toml").failed()


def test_a_number_that_no_manifest_holds_is_refused(tmp_path, kat_cli):
    said = kat_cli("sample", tmp_path, "--budget", "9" * 30, "--out", tmp_path / "s").failed()
    assert "expected a whole number of 18 digits at most" in said
    with pytest.raises(OptionError, match="digits at most"):
        SampleOptions(budget=10**30)
