"""The stage that hands over: pair weights and the pairs they were made of → a folder that a trainer reads."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat.artifacts import is_done, json_bytes, manifest, read_manifest, seal, sha256_file, whole_folder
from kat.config import one_of
from kat.errors import InputError
from kat.integrations import export
from kat.stages.stage import input_hash, said, skipped
from kat.stages.weigh_pairs import NAME

_BATCH = 1024
Row = dict[str, Any]


def export_weights(run: Path, to: str, out: Path, pairs: Path | None, seed: int, overwrite: bool) -> None:
    """RUN/pair_weights.parquet (or such a file itself) and its pairs → OUT, in the shape of `to`.

    `seed` is that of drawn passes. Raises InputError for a source that changed since the weights were made.
    """
    from kat.data.pairs import PairReader
    from kat.pair_weights.storage import read_pair_weights

    one_of("to", to, export.FORMATS)
    path = run if run.suffix == ".parquet" else run / NAME
    if not path.is_file():
        raise InputError(f"{path} does not exist. Make it with: kat weigh-pairs {run}")
    source, digest = _source(path, pairs)
    inputs = {"pair_weights": input_hash(path), "pairs": digest}
    wanted = manifest("export", inputs, {"to": to, "seed": seed})
    if is_done(out, wanted, (FIRST[to],), overwrite=overwrite):
        return skipped("export", out)
    began = time.monotonic()
    table = read_pair_weights(path)

    def weighed() -> Iterator[export.Weighed]:
        return export.weighed_pairs(PairReader(source, "all"), table)

    with whole_folder(out) as folder:
        WRITERS[to](weighed, table, folder, seed)
        files = sorted(p.name for p in folder.iterdir())
        seal(folder, wanted)
    trains, validates = (int((table.split == part).sum()) for part in export.PARTS)
    said("export", f"{trains:,} training and {validates:,} validation pairs for {to}", out, began)
    for name in files:
        print(f"  {out / name}")
    print(USES[to].format(out=out))


def export_model(source: str, out: Path, allow_network: bool, overwrite: bool) -> None:
    """A model's files as safetensors, with its tokenizer and settings → OUT. Weights in pickles are read and saved."""
    import shutil

    from kat.models.digests import settings_digest, weights_digest
    from kat.models.nanochat.layout import MODEL_TYPE
    from kat.models.sources import resolve

    place = resolve(source, allow_network=allow_network)
    if out.exists() and out.samefile(place.path):
        raise InputError(f"{out} is the model itself. Name another folder.")
    hashes = {"model": weights_digest(place), "model_settings": settings_digest(place)}
    wanted = manifest("model", hashes, {})
    if is_done(out, wanted, ("config.json",), overwrite=overwrite):
        return skipped("export", out)
    began = time.monotonic()
    with whole_folder(out) as folder:
        if any(place.path.glob("*.safetensors")):
            for path in (p for p in place.path.iterdir() if p.name != "manifest.json"):
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, folder / path.name)
        else:
            from kat.models.load import load_model

            kind = "causal" if "CausalLM" in (place.path / "config.json").read_text() else "encoder"
            loaded = load_model(source, kind=kind, device="cpu", dtype="float32", allow_network=allow_network)
            loaded.model.save_pretrained(folder)
            loaded.tokenizer.save_pretrained(folder)
        own = MODEL_TYPE in (folder / "config.json").read_text() if (folder / "config.json").is_file() else False
        # Not sealed: a sentence-transformers model has folders, and its files are their own proof.
        (folder / "manifest.json").write_bytes(json_bytes(wanted | {"outputs": _hashes(folder)}))
    said("export", f"{source} as a Hugging Face folder", out, began)
    if own:
        print("next      import kat.models.nanochat.modeling and call register() before AutoModel reads it")
    else:
        print(f'next      transformers.AutoModel.from_pretrained("{out}")')


def _hashes(folder: Path) -> dict[str, str]:
    """The hashes of all files below a folder, by their places in it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {str(p.relative_to(folder)): sha256_file(p) for p in files}


def _source(path: Path, pairs: Path | None) -> tuple[Path, str]:
    """The pairs that the weights were made from, and their hash. Raises InputError if they are others."""
    found = read_manifest(path)
    if found is None:
        raise InputError(f"{path} has no manifest: the run that wrote it did not finish. Run kat weigh-pairs again.")
    source = pairs or path.parent / found["pairs_path"]
    if not source.is_file():
        raise InputError(f"{path} was made from {source}, which is not there; name the pairs with --pairs_path.")
    digest = input_hash(source)
    if digest != found["inputs"]["pairs"]:
        raise InputError(f"{source} is not the file that {path} was made from. Run kat weigh-pairs again.")
    return source, digest


def _write_trl(weighed: Callable, table, folder: Path, seed: int) -> None:
    """Explicit, implicit and prompt-only, for training and validation."""
    shapes = {"explicit": export.explicit_row, "implicit": export.implicit_row}
    with ExitStack() as stack:
        writers = {
            (shape, part): stack.enter_context(_ParquetRows(folder / f"{shape}.{part}.parquet", _columns(shape, part)))
            for shape in shapes
            for part in export.PARTS
        }
        for one in weighed():
            for shape, row in shapes.items():
                writers[shape, one.part].add(row(one))
    for part in export.PARTS:
        prefixes, w = export.prompts_of(weighed(), part)
        rows = (export.prompt_row(p, float(x)) for p, x in zip(prefixes, w, strict=True))
        _parquet(folder / f"prompts.{part}.parquet", rows, _columns("prompts", part))


def _write_openrlhf(weighed: Callable, table, folder: Path, seed: int) -> None:
    """A weighted pass of pairs and one of prompts, in an order of their own, and the validation pairs as they are."""
    v = table.v[table.split == "train"]
    counts = export.drawn_counts(v, seed)
    with tempfile.TemporaryFile(dir=folder) as spool, (folder / "pairs.validation.jsonl").open("wb") as held:
        # Where each training pair's line lies in the spool; the texts stay on disk.
        place, length = np.zeros((2, len(v)), np.int64)
        row = 0
        for one in weighed():
            line = orjson.dumps(export.explicit_row(one)) + b"\n"
            if one.part != "train":
                held.write(line)
                continue
            if counts[row]:
                place[row], length[row] = spool.tell(), len(line)
                spool.write(line)
            row += 1
        order = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(v)), counts))
        _lines(folder / "pairs.train.jsonl", (_read(spool, place[i], length[i]) for i in order))
    for part in export.PARTS:
        prefixes, w = export.prompts_of(weighed(), part)
        if not len(prefixes):
            continue
        share = (w / w.sum()).tolist()
        lines = [orjson.dumps(export.openrlhf_row(p, x)) + b"\n" for p, x in zip(prefixes, share, strict=True)]
        if part == "train":
            counts_of = export.drawn_counts(w, seed)
            rows = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(lines)), counts_of))
            _lines(folder / "prompts.train.jsonl", (lines[i] for i in rows))
            _lines(folder / "prompts.train.all.jsonl", lines)
        else:
            _lines(folder / f"prompts.{part}.jsonl", lines)


def _write_verl(weighed: Callable, table, folder: Path, seed: int) -> None:
    """Every prompt once, with its weight; and a weighted pass of them."""
    for part in export.PARTS:
        prefixes, w = export.prompts_of(weighed(), part)
        rows = [export.verl_row(p, float(x), i, part) for i, (p, x) in enumerate(zip(prefixes, w, strict=True))]
        if rows:
            _parquet(folder / f"{part}.parquet", rows, _columns("verl", part))
        if rows and part == "train":
            counts = export.drawn_counts(w, seed)
            order = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(rows)), counts))
            _parquet(folder / "train.drawn.parquet", (rows[i] for i in order), _columns("verl", part))


def _read(file: Any, place: int, length: int) -> bytes:
    file.seek(place)
    return file.read(length)


def _plain_rows(table) -> Iterator[Row]:
    for i in np.flatnonzero(table.split != ""):
        v = float(table.v[i]) if table.split[i] == "train" else None
        yield {"pair_id": table.pair_id[i], "weight": v, "split": table.split[i]}


def _write_parquet(weighed: Callable, table, folder: Path, seed: int) -> None:
    _check(weighed)
    _parquet(folder / "weights.parquet", _plain_rows(table), _columns("plain", ""))


def _write_jsonl(weighed: Callable, table, folder: Path, seed: int) -> None:
    _check(weighed)
    _lines(folder / "weights.jsonl", (orjson.dumps(row) + b"\n" for row in _plain_rows(table)))


def _check(weighed: Callable) -> None:
    """Walk through the join, so that weights of other pairs are noticed where no pair is written too."""
    for _ in weighed():
        pass


WRITERS: dict[str, Callable[..., None]] = {
    "trl": _write_trl,
    "openrlhf": _write_openrlhf,
    "verl": _write_verl,
    "parquet": _write_parquet,
    "jsonl": _write_jsonl,
}
FIRST = {
    "trl": "explicit.train.parquet",
    "openrlhf": "pairs.train.jsonl",
    "verl": "train.parquet",
    "parquet": "weights.parquet",
    "jsonl": "weights.jsonl",
}
"""A file that is always there."""
USES = {
    "trl": 'next      datasets.load_dataset("parquet", data_files="{out}/explicit.train.parquet") and '
    "kat.integrations.trl.WeightedRewardTrainer",
    "openrlhf": "next      python -m openrlhf.cli.train_rm --data.dataset {out}/pairs.train.jsonl --data.prompt_key "
    "prompt --data.chosen_key chosen --data.rejected_key rejected --data.apply_chat_template",
    "verl": "next      data.train_files={out}/train.drawn.parquet data.shuffle=False; or, up to verl 0.7, "
    "train.parquet with data.sampler.class_path=pkg://kat.integrations.verl data.sampler.class_name=DensitySampler",
    "parquet": "next      join {out}/weights.parquet with your pairs by pair_id; do not normalise inside a batch",
    "jsonl": "next      join {out}/weights.jsonl with your pairs by pair_id; do not normalise inside a batch",
}


def _columns(shape: str, part: str) -> Any:
    """The columns of a parquet file. Said, not guessed from the first rows, whose weights may all be null."""
    import pyarrow as pa

    text, number, whole = pa.string(), pa.float64(), pa.int64()
    messages = pa.list_(pa.struct([("role", text), ("content", text)]))
    marks = [("pair_id", text), ("opening_id", text), *([("weight", number)] if part == "train" else [])]
    extra = pa.struct([("index", whole), ("split", text), ("opening_id", text)])
    shapes = {
        "explicit": [("prompt", messages), ("chosen", messages), ("rejected", messages), *marks],
        "implicit": [("chosen", messages), ("rejected", messages), *marks],
        "prompts": [("prompt", messages), ("opening_id", text), ("weight", number)],
        "verl": [
            ("data_source", text),
            ("prompt", messages),
            ("ability", text),
            ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
            ("extra_info", extra),
            ("weight", number),
        ],
        "plain": [("pair_id", text), ("weight", number), ("split", text)],
    }
    return pa.schema(shapes[shape])


class _ParquetRows:
    """Rows to a parquet file, some at a time; a file without rows is not made."""

    def __init__(self, path: Path, schema: Any):
        self._path, self._schema, self._held, self._writer = path, schema, [], None

    def __enter__(self) -> _ParquetRows:
        return self

    def add(self, row: Row) -> None:
        self._held.append(row)
        if len(self._held) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._held:
            return
        table = pa.Table.from_pylist(self._held, schema=self._schema)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        self._writer.write_table(table)
        self._held = []

    def __exit__(self, kind, *_: object) -> None:
        if kind is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()


def _parquet(path: Path, rows: Iterable[Row], schema: Any) -> None:
    with _ParquetRows(path, schema) as writer:
        for row in rows:
            writer.add(row)


def _lines(path: Path, lines: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(lines)
