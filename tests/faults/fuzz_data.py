"""Damaged, odd and hostile files for every reader of data: whatever they hold, an error is one of kat's.

A case is a seed: it makes a valid file in one of the formats, damages it (or fills it with odd values), and hands it to
the readers of pairs, prompts, completions and rewards in this process. `fuzz` returns the cases that raised anything
else, and `case` runs one again.
"""

import bz2
import csv
import datetime
import decimal
import gzip
import io
import json
import lzma
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq

from kat.config import ReadOptions
from kat.data.completions import CompletionReader, hold_completions
from kat.data.pair_columns import collect_columns
from kat.data.pairs import PairReader
from kat.data.prefix_file import PrefixFile, prefix_line
from kat.data.prompt_texts import look_inside
from kat.data.prompts import PromptFile
from kat.errors import KatError
from kat.evaluation.scores import read_scores

DEEPEST = "[" * 100_000 + "]" * 100_000
DEEP = ('{"a":' * 2_000 + "1" + "}" * 2_000, "[" * 900 + "]" * 900, "[" * 1_020 + "]" * 1_020, "[" * 300 + "]" * 300)
NUMBERS = (
    "1" * 400,
    "-" + "9" * 5_000,
    "1e400",
    "-0.0",
    "1e-999",
    "NaN",
    "-Infinity",
    str(2**64),
    "12345678901234567.0",
)
WORDS = (
    "",
    " ",
    "\0",
    "\ud800",
    "\udfff\ud83d",
    "\u202e\x1b[31m",
    "\ufeff",
    "é",
    "漢字",
    "🏳️‍🌈",
    "a" * 3000,
    "\r\n",
    '"',
    "\\",
    "\x85\u2028",
)
TEXTS = (
    "hello",
    "What is it?",
    "\n\nHuman: hi\n\nAssistant: ho",
    "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n",
    "data:image/png;base64,AA",
)
KEYS = (
    "prompt",
    "chosen",
    "rejected",
    "prefix",
    "messages",
    "id",
    "src",
    "tools",
    "margin",
    "system",
    "score_chosen",
    "score_rejected",
    "conversations",
    "history",
    "completion",
    "completions",
    "responses",
    "images",
    "question",
    "response_j",
    "instruction",
    "output",
    "scores",
    "num_correct",
    "reward_chosen",
    "reward_rejected",
    "opening_id",
    "pair_id",
    "extra",
    "query",
    "rejected_response",
)


@dataclass(frozen=True)
class Failure:
    """A case that raised what is no error of kat's."""

    seed: int
    name: str
    error: str

    def __str__(self):
        return f"fuzz_data.case({self.seed}): {self.name}: {self.error}"


def turn(rng):
    role = rng.choice(("user", "assistant", "system", "tool", "human", "gpt"))
    message = {"role": role, "content": text(rng)}
    if rng.random() < 0.1:
        message["tool_calls"] = [
            {"function": {"name": "f", "arguments": rng.choice(('{"a": 1}', *DEEP, "{", {"a": [1]}))}}
        ]
    if rng.random() < 0.1:
        message = {
            "from": rng.choice(("human", "gpt", "function_call")),
            "value": rng.choice((text(rng), DEEP[0], '{"name": 1}')),
        }
    return message


def talk(rng):
    return [{"role": "user", "content": text(rng)}, *(turn(rng) for _ in range(rng.randrange(3)))]


def text(rng):
    return rng.choice(WORDS) if rng.random() < 0.15 else rng.choice(TEXTS) + str(rng.randrange(100))


def answer(rng):
    return text(rng) if rng.random() < 0.7 else [{"role": "assistant", "content": text(rng)}]


ROWS = {
    "plain": lambda r: {"prompt": text(r), "chosen": answer(r), "rejected": answer(r)},
    "talk": lambda r: {
        "prompt": talk(r),
        "chosen": answer(r),
        "rejected": answer(r),
        "tools": r.choice((None, "[]", [{"type": "function"}])),
    },
    "kat": lambda r: {"id": str(r.random()), "prefix": {"messages": talk(r)}, "chosen": text(r), "rejected": text(r)},
    "whole": lambda r: {s: [*talk(r), {"role": "assistant", "content": text(r)}] for s in ("chosen", "rejected")},
    "hh": lambda r: {s: f"\n\nHuman: q\n\nAssistant: {text(r)}" for s in ("chosen", "rejected")},
    "scored": lambda r: {
        "prompt": text(r),
        "chosen": text(r),
        "rejected": text(r),
        "score_chosen": r.random(),
        "score_rejected": -1,
        "margin": 2.5,
    },
    "json": lambda r: {"prompt": json.dumps(talk(r)), "chosen": text(r), "rejected": text(r)},
    "prompt": lambda r: {"id": str(r.random()), "prompt": r.choice((text(r), talk(r)))},
    "asked": lambda r: {"prompt": text(r), "completions": [text(r), text(r)]},
    "rewards": lambda r: {"pair_id": str(r.random()), "chosen": r.random(), "rejected": r.choice((0.5, [1.5], 3))},
    "bench": lambda r: {
        "id": str(r.random()),
        "scores": [r.random() for _ in range(4)],
        "num_correct": r.choice((1, 2, 9)),
    },
    "columns": lambda r: {"id": ["a", "b"], "scores_chosen": [1, [r.random()]], "scores_rejected": [0.5, 2]},
}


def odd_value(rng, depth=0):
    kind = rng.randrange(9)
    if kind < 3:
        return rng.choice(WORDS)
    if kind < 5:
        return rng.choice((None, True, 0, -1, 10**25, 10**400, 0.5, float("nan"), float("inf")))
    if depth > 3:
        return []
    if kind < 7:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 7:
        return {rng.choice(KEYS + WORDS): odd_value(rng, depth + 1) for _ in range(rng.randrange(3))}
    return turn(rng)


def rows_of(rng):
    """Rows of one kind, some of them with a key more, a key less, or values of other types, also inside."""
    make = ROWS[rng.choice(list(ROWS))]
    rows = [make(rng) for _ in range(rng.choice((1, 3, 12)))]
    for row in rows:
        while rng.random() < 0.3:
            row[rng.choice(KEYS)] = odd_value(rng)
        if rng.random() < 0.1:
            row.pop(rng.choice(list(row)))
        if rng.random() < 0.2:
            swap_inside(rng, row)
    return rows


def swap_inside(rng, value):
    """Swap one value somewhere inside of lists and objects."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not keys:
            return
        key = rng.choice(list(keys))
        if not isinstance(value[key], dict | list) or rng.random() < 0.3:
            value[key] = odd_value(rng)
            return
        value = value[key]


def as_json(rng, rows):
    lines = [json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows]
    for i in range(len(lines)):
        if rng.random() < 0.1:
            lines[i] = lines[i].replace("hello", rng.choice(NUMBERS), 1)
        if rng.random() < 0.06:
            lines[i] = (
                lines[i][:-1]
                + f', "{rng.choice(KEYS)}": {rng.choice(NUMBERS + DEEP) if rng.random() < 0.99 else DEEPEST}}}'
            )
    return [line.encode("utf-8", "surrogatepass") for line in lines]


def json_lines(rng, rows):
    return rng.choice((b"\n", b"\n", b"\r\n", b"\n\n \n")).join(as_json(rng, rows)) + rng.choice((b"", b"\n"))


def json_array(rng, rows):
    return (
        b"["
        + rng.choice((b"", b"\n"))
        + rng.choice((b",", b",\n", b" , ")).join(as_json(rng, rows))
        + rng.choice((b"]", b"]\n", b"\n]", b""))
    )


def json_columns(rng, rows):
    return json.dumps({k: [row.get(k) for row in rows] for k in rows[0]}).encode()


def delimited(rng, rows):
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out, delimiter=rng.choice(",\t;"), lineterminator=rng.choice(("\n", "\r\n")))
    writer.writerow(names)
    for row in rows:
        writer.writerow([v if isinstance(v := row.get(n, ""), str) else json.dumps(v) for n in names])
    return out.getvalue().encode("utf-8", "surrogatepass")


def storage(rng, count):
    """A column of a random type with random values, as many as asked; some that Python cannot hold."""
    small = [rng.randrange(-5, 5) for _ in range(count)]
    large = [rng.choice((0, 1, -1, 2**62, -(2**62), 253402300800 * 10**6)) for _ in range(count)]
    words = pa.array([text(rng).encode("utf-8", "replace").decode() for _ in range(count)])
    makers = (
        lambda: pa.array(large, pa.int64()).cast(
            pa.timestamp(rng.choice(("s", "ms", "us", "ns")), rng.choice((None, "UTC", "Nowhere/City"))), safe=False
        ),
        lambda: pa.array([rng.randrange(-(2**31), 2**31) for _ in range(count)], pa.int32()).cast(pa.date32()),
        lambda: pa.array(large, pa.int64()).view(pa.date64()),
        lambda: pa.array(large, pa.int64()).view(pa.duration(rng.choice(("s", "us", "ns")))),
        lambda: pa.array(large, pa.int64()).view(pa.time64(rng.choice(("us", "ns")))),
        lambda: pa.array([decimal.Decimal(s) for s in small], pa.decimal128(38, rng.choice((0, 5)))),
        lambda: pa.array([decimal.Decimal(10) ** 70] * count, pa.decimal256(76, 2)),
        lambda: pa.array([[("k", s), ("k", s)] for s in small], pa.map_(pa.string(), pa.int64())),
        lambda: pa.array(
            [[(text(rng)[:9].encode("utf-8", "replace").decode(), "v")] for _ in small],
            pa.map_(pa.string(), pa.string()),
        ),
        lambda: words.dictionary_encode(),
        lambda: pa.UnionArray.from_dense(
            pa.array([i % 2 for i in range(count)], pa.int8()),
            pa.array([i // 2 for i in range(count)], pa.int32()),
            [words, pa.array(small)],
        ),
        lambda: pa.RunEndEncodedArray.from_arrays([count], pa.array(["x"])),
        lambda: pa.StructArray.from_arrays([words, words], ["a", rng.choice("ab")]),
        lambda: pa.array([b"\xff\xfe" if s > 2 else b"ok" for s in small], pa.binary()).view(pa.string()),
        lambda: pa.array([b"\xff" * 16] * count, pa.binary(16)),
        lambda: pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\x01" * 16] * count, pa.binary(16))),
        lambda: pa.ExtensionArray.from_storage(pa.json_(), words),
        lambda: pa.array(
            [float("nan") if s > 2 else s for s in small], rng.choice((pa.float16(), pa.float32(), pa.float64()))
        ),
        lambda: pa.array([datetime.time(1)] * count),
        lambda: pa.nulls(count),
        lambda: words.cast(pa.string_view()),
        lambda: words.cast(pa.large_string()),
        lambda: pa.array([pa.MonthDayNano([1, s, 2**40]) for s in small]),
        lambda: pa.array([[[["x"]]]] * count),
        lambda: pa.array([s > 0 for s in small]),
    )
    return rng.choice(makers)()


def table(rng, rows):
    """Rows as a table, with columns of random types: more, or in the place of its own."""
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
            columns[name] = pa.array([str(row.get(name)).encode("utf-8", "replace").decode() for row in rows])
    for _ in range(rng.choice((0, 1, 1, 3))):
        name = rng.choice(list(columns) + list(KEYS))
        columns[name] = storage(rng, len(rows))
    names, arrays = list(columns), list(columns.values())
    if rng.random() < 0.03:
        names[rng.randrange(len(names))] = rng.choice((*names, "", "a.b", "\x1b"))
    names = [name.encode("utf-8", "replace").decode() for name in names]
    return pa.Table.from_arrays(arrays, names=names)


def parquet(rng, rows):
    out, data = io.BytesIO(), table(rng, rows)
    try:
        pq.write_table(
            data, out, compression=rng.choice(("none", "snappy", "zstd")), row_group_size=rng.choice((2, 100))
        )
    except (pa.ArrowException, ValueError, OverflowError):  # a type that parquet does not have
        return arrow(rng, rows)
    return out.getvalue()


def arrow(rng, rows):
    out, data = io.BytesIO(), table(rng, rows)
    opener = rng.choice((pa.ipc.new_file, pa.ipc.new_stream))
    with opener(out, data.schema) as writer:
        writer.write_table(data)
    return out.getvalue()


WRITERS = {
    "x.jsonl": json_lines,
    "x.json": json_array,
    "y.json": json_columns,
    "x.csv": delimited,
    "x.tsv": delimited,
    "x.parquet": parquet,
    "x.arrow": arrow,
    "x": json_lines,
}
PACKERS = {
    ".gz": lambda data: gzip.compress(data, 1, mtime=0),
    ".bz2": lambda data: bz2.compress(data, 1),
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}
INTERESTING = (
    b"\0",
    b"\xff",
    b"\n",
    b'"',
    b"{",
    b"[",
    b"]",
    b"\xff\xff\xff\x7f",
    b"\xed\xa0\x80",
    b"\\u0000",
    b"PAR1",
    b"ARROW1",
)


def damage(rng, data):
    """Flip, cut, repeat, splice or overwrite bytes, mostly near the ends, where headers are."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if not data:
            break
        at = rng.choice(
            (
                rng.randrange(len(data)),
                rng.randrange(min(64, len(data))),
                len(data) - 1 - rng.randrange(min(64, len(data))),
            )
        )
        kind = rng.randrange(6)
        if kind < 2:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.choice((1, 4, 100, len(data)))]
        elif kind == 3:
            data[at:at] = data[at : at + rng.choice((1, 8, 300))] * rng.choice((1, 2, 50))
        elif kind == 4:
            piece = rng.choice(INTERESTING)
            data[at : at + len(piece) * rng.randrange(2)] = piece
        else:
            data[at : at + 4] = rng.randbytes(4)
    return bytes(data)


def file_of(rng):
    """The name and the bytes of a case's file."""
    name, writer = rng.choice(list(WRITERS.items()))
    data = writer(rng, rows_of(rng))
    if writer not in (parquet, arrow) and rng.random() < 0.1:
        data = data.decode("utf-8", "replace").encode(
            rng.choice(("utf-16", "utf-8-sig", "utf-32", "latin-1")), "replace"
        )
    if rng.random() < 0.6:
        data = damage(rng, data)
    if rng.random() < 0.15:
        suffix, packer = rng.choice(list(PACKERS.items()))
        name, data = name + suffix, packer(data)
        if rng.random() < 0.5:
            data = damage(rng, data)
    return name, data


def pairs(rng, path, most):
    options = ReadOptions(
        columns=rng.choice((None, None, "prompt=question", "chosen=completion,id=src")),
        drop_columns=rng.choice((None, None, "images", "extra,tools")),
        unit=rng.choice((None, "context")),
        score_conflict=rng.choice(("error", "keep", "swap", "drop")),
        max_line_bytes=most,
    )
    labels = rng.choice(((), (), ("src",), ("margin", "extra")))
    sunk = []
    reader = PairReader(path, rng.choice(("all", "all", 0)), sunk.append, options, labels=labels)
    held = list(reader)
    for pair in held:
        prefix_line(pair.prefix)
    collect_columns(held)


def prompts(rng, path, most):
    inside = look_inside(path, most)
    for prompt in PromptFile(path, "all", lambda line: None, inside.names, max_line_bytes=most):
        prefix_line(prompt)


def completions(rng, path, most):
    hold_completions(path, most)
    list(CompletionReader(path, "all", lambda line: None, max_line_bytes=most))


def scores(rng, path, most):
    read_scores(path, rng.choice(("all", 0)), lambda line: None, max_line_bytes=most)


def prefixes(rng, path, most):
    with PrefixFile(path) as file:
        for name in file:
            assert file[name].id == name


READERS = (pairs, pairs, prompts, completions, scores, prefixes)


def case(seed, folder):
    """Run the case of a seed, its file written into a folder; return its Failure, or None."""
    rng = Random(seed)
    name, data = file_of(rng)
    path = Path(folder) / name
    path.write_bytes(data)
    reader, most = rng.choice(READERS), rng.choice((256_000_000, 256_000_000, 300))
    try:
        reader(rng, path, most)
    except (KatError, MemoryError):
        return None
    except Exception as error:  # whatever else it is, it is what is looked for
        trace = error.__traceback__
        while trace.tb_next:
            trace = trace.tb_next
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        return Failure(seed, f"{reader.__name__} of {name}", f"{type(error).__name__} at {place}: {str(error)[:200]}")
    finally:
        path.unlink()
    return None


def fuzz(n, seed=0):
    """Run n cases from a seed on; return the failures."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [failure for i in range(n) if (failure := case(seed + i, folder))]
