"""The stage that hands over: pair weights and the pairs they were made of → a folder that a trainer reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from kat.artifacts import is_done, json_bytes, manifest, read_manifest, seal, sha256_file, whole_folder
from kat.errors import InputError
from kat.integrations.rows import PARTS, WeighedPair, weighed_pairs
from kat.plugins import EXPORTS, check_name, load
from kat.stages.stage import input_hash, said, skipped
from kat.stages.weigh_pairs import NAME


def export_weights(run: Path, to: str, out: Path, pairs: Path | None, seed: int, overwrite: bool) -> None:
    """Write RUN/pair_weights.parquet (or such a file itself) and its pairs to OUT, in the format of the export `to`.

    `seed` is that of drawn passes. Raises InputError for a source that changed since the weights were made.
    """
    from kat.data.pairs import PairReader
    from kat.pair_weights.storage import read_pair_weights

    check_name("to", to, EXPORTS)
    export = load(EXPORTS, to)
    path = run if run.suffix == ".parquet" else run / NAME
    if not path.is_file():
        raise InputError(f"{path} does not exist. Make it with: kat weigh-pairs {run}")
    source, digest = _source(path, pairs)
    inputs = {"pair_weights": input_hash(path), "pairs": digest}
    expected = manifest("export", inputs, {"to": to, "seed": seed})
    if is_done(out, expected, (export.first_file,), overwrite=overwrite):
        return skipped("export", out)
    began = time.monotonic()
    table = read_pair_weights(path)

    def weighed() -> Iterator[WeighedPair]:
        return weighed_pairs(PairReader(source, "all"), table)

    with whole_folder(out) as folder:
        export.write(weighed, table, folder, seed)
        files = sorted(p.name for p in folder.iterdir())
        seal(folder, expected)
    trains, validates = (int((table.split == part).sum()) for part in PARTS)
    said("export", f"{trains:,} training and {validates:,} validation pairs for {to}", out, began)
    for name in files:
        print(f"  {out / name}")
    print(export.next_step.format(out=out))


def export_model(source: str, out: Path, allow_network: bool, overwrite: bool) -> None:
    """A model's files as safetensors, with its tokenizer and settings → OUT. Weights in pickles are read and saved."""
    import shutil

    from kat.models.loading import settings_digest, weights_digest
    from kat.models.nanochat.modeling import MODEL_TYPE
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
