"""Ways to damage a file, by what it holds: values of other types, edited headers, flipped bytes, other kinds."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**70, 1e308, 1.5, -0.0, float("nan"), float("inf")),
    *(
        "",
        "x",
        "a\0b",
        "../..",
        "/nowhere/x",
        "~nobody/x",
        "\ud800",
        "é\u202e\x1b[2J",
        "a" * 5000,
        "1",
        "{{ 1/0 }}",
    ),
    *([], {}, [1], ["x"], [None], [[]], {"a": 1}, {"": None}, [1, "x", None], {"x": {"y": []}}, ["/nowhere/x"]),
]
"""What stands in the place of a value."""
DTYPES = ["<f8", "<f4", ">f4", "<f2", "<i4", "<i8", "<u1", "|b1", "|O", "<U4", "|S3", "|V8", "<c8", "<M8[s]", "<q9", ""]
_DEEP = 100_000
TEMPLATES = [
    *("{%", "{{", "{{ 1/0 }}", "{{ messages[99].x.y }}", "{{ messages + 1 }}", "{{ raise_exception('no') }}", ""),
    *("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"),
    *("{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{{ range(10**9) | list }}"),
    *("{{ strftime_now('%Q\\0') }}", "{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "{{ lipsum.__globals__ }}"),
    *("{{ namespace(__class__=1) }}", "{{ messages | map(attribute='__init__') | list }}", "{{ 'a' * 10**4 }}"),
    *("{{ '%99999d' % 1 }}", "{{ 10 ** 10 ** 5 }}", "{{ '{0.__class__}'.format(1) }}", "{{ 1 | nope }}", "a" * 10**4),
    *("{{ bos_token.x() }}", "{{ messages | tojson(indent='x') }}", "{{ messages[0] | int('x', 99) }}"),
    *("{% for m in 5 %}{% endfor %}", "{% set messages = 1 %}{{ messages.x }}", "{{ '\\ud800' }}"),
]
"""Chat templates as a stranger's model may bring them."""


def tree(value: Any, rng: Random) -> Any:
    """A value with one place in it changed: swapped, dropped, added, repeated or nested."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        changed = dict(value)
        roll = rng.random()
        if roll < 0.15:
            del changed[key]
        elif roll < 0.22:
            changed[rng.choice(["x", "a\0b", "", "../x", key + "2" if isinstance(key, str) else "y"])] = rng.choice(ODD)
        else:
            changed[key] = tree(value[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        changed_list = list(value)
        roll = rng.random()
        if roll < 0.2:
            del changed_list[place]
        elif roll < 0.4:
            changed_list.insert(place, rng.choice([value[place], rng.choice(ODD)]))
        else:
            changed_list[place] = tree(value[place], rng)
        return changed_list
    return rng.choice(ODD) if rng.random() < 0.9 else [value]


def json_file(data: bytes, rng: Random) -> bytes:
    """JSON with one value changed, or text that is almost JSON."""
    roll = rng.random()
    if roll < 0.04:
        return rng.choice([b"[" * _DEEP, b"[" * _DEEP + b"]" * _DEEP, b'{"a":' * _DEEP + b"1" + b"}" * _DEEP])
    if roll < 0.1:
        return json.dumps(rng.choice(ODD)).encode()
    if roll < 0.13:
        return rng.choice([b"\xff\xfe{}", b"{} {}", b"{'a': 1}", b"\xef\xbb\xbf" + data, b"9" * 5000, b"-"])
    return json.dumps(tree(json.loads(data), rng)).encode()


def lines_file(data: bytes, rng: Random) -> bytes:
    """JSON lines with one line changed."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return b"{}\n"
    place = rng.randrange(len(lines))
    lines[place] = json_file(lines[place], rng) + b"\n"
    return b"".join(lines)


def npy_file(data: bytes, rng: Random) -> bytes:
    """An array of another type, shape or order, or with other values; or an edited header over the same bytes."""
    array = np.load(io.BytesIO(data))
    if rng.random() < 0.5:
        return _edited_header(data, array, rng)
    kinds: list[Callable[[], Any]] = [
        lambda: array.astype(rng.choice(["<f8", "<f4", ">f4", "<f2", "<i8", "<i4", "<u1", "?", "<U8", "<c8", "S3"])),
        lambda: array[: rng.randrange(len(array) + 1)] if array.ndim else array,
        lambda: array.reshape(-1),
        lambda: array[..., None],
        lambda: array.T,
        lambda: np.concatenate([array, array]) if array.ndim else array,
        lambda: np.empty((0, *array.shape[1:]), array.dtype),
        lambda: np.float32(1),
        lambda: np.zeros(array.shape, [("a", "<f4"), ("b", "<i4")]),
        lambda: np.asfortranarray(array),
        lambda: _other_value(array, rng),
        lambda: _other_value(array, rng),
    ]
    out = io.BytesIO()
    with np.errstate(all="ignore"):
        np.save(out, rng.choice(kinds)(), allow_pickle=False)
    return out.getvalue()


def _other_value(array: np.ndarray, rng: Random) -> np.ndarray:
    changed = array.copy().reshape(-1)
    if not len(changed):
        return array
    value = rng.choice([0, -1, 1, 2**31 - 1, -(2**31), np.nan, np.inf, -np.inf, 1e30, 1e-38])
    if changed.dtype.kind in "iu" and not np.isfinite(value):
        value = 2**31 - 1
    places = slice(None) if rng.random() < 0.2 else rng.randrange(len(changed))
    changed[places] = np.float64(value).astype(changed.dtype)
    return changed.reshape(array.shape)


def _edited_header(data: bytes, array: np.ndarray, rng: Random) -> bytes:
    body = data[-array.nbytes :] if array.nbytes else b""
    n = array.shape[0] if array.ndim else 1
    shapes = [(), (0,), (n,), (n + 1, *array.shape[1:]), array.shape[::-1], (10**12, 10), (-1, 2), (n, 0), (2**62, 4)]
    header: dict[str, Any] = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    key = rng.choice(list(header))
    values = {"descr": [*DTYPES, [("a", "<f4")], 3, None], "fortran_order": [True, 1, "x"], "shape": [*shapes, 5, "x"]}
    if rng.random() < 0.15:
        del header[key]
    else:
        header[key] = rng.choice(values[key])
    text = repr(header).encode() if rng.random() < 0.9 else rng.choice([b"{", b"1", b"(" * 5000, b"\xff" * 9, b"{}"])
    text = text.ljust(100) + b"\n"
    version = rng.choice([(1, 0), (1, 0), (1, 0), (2, 0), (3, 0), (9, 9)])
    size = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + body


def parquet_file(data: bytes, rng: Random) -> bytes:
    """A table with one column of another type, dropped, repeated, cut or emptied, or with another value."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    name = rng.choice(table.column_names)
    place, n = table.column_names.index(name), len(table)
    values: dict[str, Any] = {
        "text": lambda: pa.array([rng.choice(["", "x", "a\0b", "é"]) for _ in range(n)]),
        "numbers": lambda: pa.array([rng.choice([0, 1, -1, 2**40]) for _ in range(n)]),
        "floats": lambda: pa.array([rng.choice([0.0, 1.0, -1.0, float("nan"), float("inf")]) for _ in range(n)]),
        "nulls": lambda: pa.nulls(n),
        "lists": lambda: pa.array([[1.0, None]] * n),
        "structs": lambda: pa.array([{"a": 1}] * n),
        "bools": lambda: pa.array([rng.random() < 0.5 for _ in range(n)]),
        "bytes": lambda: pa.array([b"\xff"] * n),
        "words": lambda: table[name].cast(pa.string()).combine_chunks().dictionary_encode(),
        "times": lambda: pa.array([2**62] * n, pa.timestamp("ns")),
        "decimals": lambda: pa.array([1] * n).cast(pa.decimal128(30, 2)),
        "some nulls": lambda: pa.array([v if rng.random() < 0.8 else None for v in table[name].to_pylist()]),
        "shuffled": lambda: pa.array(rng.sample(table[name].to_pylist(), n), table[name].type),
    }
    roll = rng.random()
    if roll < 0.1:
        table = table.drop_columns([name])
    elif roll < 0.15:
        table = table.append_column(name, table[name])
    elif roll < 0.22:
        table = table.slice(0, rng.choice([0, 1, 2]))
    elif roll < 0.3:
        odd = rng.choice([b"", b"x", b"[]", b"[" * _DEEP, b"{}", json.dumps({"weights": {"blend": "x"}}).encode()])
        table = table.replace_schema_metadata({"kat": odd})
    else:
        table = table.set_column(place, name, values[rng.choice(list(values))]())
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def pt_file(data: bytes, rng: Random) -> bytes:
    """What torch saved, with one value changed; tensors become others."""
    import torch

    def other(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and rng.random() < 0.7:
            flat = value.reshape(-1)
            kinds = [value.double(), value.int(), flat, value[None], value[:0] if value.dim() else flat, value * 0 - 1]
            return rng.choice([*kinds, value.to_sparse() if value.dim() else flat])
        return rng.choice(ODD)

    def changed(value: Any) -> Any:
        if isinstance(value, dict) and value and rng.random() < 0.9:
            key = rng.choice(list(value))
            rest = {k: v for k, v in value.items() if k != key}
            return rest if rng.random() < 0.15 else value | {key: changed(value[key])}
        if isinstance(value, list) and value and rng.random() < 0.7:
            place = rng.randrange(len(value))
            return [*value[:place], changed(value[place]), *value[place + 1 :]]
        return other(value)

    out = io.BytesIO()
    torch.save(changed(torch.load(io.BytesIO(data), weights_only=True)), out)
    return out.getvalue()


def safetensors_file(data: bytes, rng: Random) -> bytes:
    """Weights under a header with one value changed, or with another length of it."""
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.15:
        return rng.choice([0, 1, size + 1, 2**40, 2**63]).to_bytes(8, "little") + header + body
    text = json_file(header, rng)
    return len(text).to_bytes(8, "little") + text + body


def pickle_file(data: bytes, rng: Random) -> bytes:
    """A pickle of something else, or one that asks for what must not run."""
    odd = [*ODD, os.getcwd, io.BytesIO, print, {"ids": ["a"], "emb": [1.0]}]
    programs = [b"cos\nsystem\n(S'true'\ntR.", b"\x80\x04.", b"P1\n.", b"(" * _DEEP, b"]" * 9 + b"a" * 9 + b"."]
    return rng.choice([pickle.dumps(rng.choice(odd)), rng.choice(programs)])


def template_file(data: bytes, rng: Random) -> bytes:
    """A chat template that is wrong, endless in itself, enormous, or reaches for what is not its own."""
    return rng.choice(TEMPLATES).encode() + (data if rng.random() < 0.2 else b"")


def bytes_of(data: bytes, rng: Random) -> bytes:
    """Any file with flipped, cut, doubled or zeroed bytes."""
    if not data:
        return b"\0"
    place = rng.randrange(len(data))
    if rng.random() < 0.5:
        place = min(place, rng.randrange(1, 512), len(data) - 1)  # where headers are
    flipped = bytearray(data)
    flipped[place] ^= 1 << rng.randrange(8)
    return rng.choice(
        [bytes(flipped), bytes(flipped), data[:place], data[place:], data + data, data + b"\0", bytes(len(data)), b""]
    )


KINDS = {
    ".json": json_file,
    ".jsonl": lines_file,
    ".npy": npy_file,
    ".parquet": parquet_file,
    ".pt": pt_file,
    ".bin": pt_file,
    ".safetensors": safetensors_file,
    ".pkl": pickle_file,
    ".jinja": template_file,
}


def replaced(path: Path, rng: Random) -> str:
    """Put something of another kind in a file's place; return what."""
    what = rng.choice(["nothing", "folder", "pipe", "loop", "dangling", "link to a folder"])
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what != "nothing":
        # None leads out of the folder: kat follows a link where it writes, and the case must harm nothing else.
        path.symlink_to({"loop": path.name, "dangling": "gone", "link to a folder": "."}[what])
    return what


def damage(path: Path, rng: Random) -> str:
    """Damage a file in one way; return which."""
    data, kind = path.read_bytes(), KINDS.get(path.suffix, bytes_of)
    roll = rng.random()
    if roll < 0.08:
        return replaced(path, rng)
    if roll < 0.25:
        kind = bytes_of
    try:
        changed = kind(data, rng)
    except (TypeError, ValueError, OverflowError, ArithmeticError, RuntimeError, NotImplementedError):
        kind, changed = bytes_of, bytes_of(data, rng)  # values that this kind of file cannot hold
    path.unlink()
    path.write_bytes(changed)
    return kind.__name__


def copied(folder: Path, target: Path) -> Path:
    """A copy of a folder, the one of before removed."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(folder, target)
