"""What models there are: bundled, nanochat's checkpoints, and what was converted from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kat.config import base_directory
from kat.errors import KatError, ModelError
from kat.models.sources import NANOCHAT


@dataclass(frozen=True)
class Found:
    """A model that a name leads to. `size` is in bytes; `note` says what is wrong with it, if anything is."""

    name: str
    path: Path
    size: int
    age: str = ""
    dimension: int | None = None
    step: int | None = None
    note: str = ""


def found_models() -> list[Found]:
    """Bundled models first, then nanochat's by name, depth and step."""
    return [*_bundled(), *_nanochat(base_directory())]


def _bundled() -> Iterator[Found]:
    from kat.models.gguf import bundled_smollm2
    from kat.models.sources import bundled_minilm

    bundled = (("minilm", bundled_minilm, "model.safetensors", 384), ("smollm2", bundled_smollm2, "", 576))
    for name, find, file, dimension in bundled:
        try:
            path = find()
        except KatError as error:
            yield Found(name, Path(), 0, note=str(error).split(". ")[-1].split("  ")[0])
            continue
        yield Found(name, path, (path / file if file else path).stat().st_size, dimension=dimension)


def _nanochat(base: Path) -> Iterator[Found]:
    from kat.models.nanochat.checkpoint import find_checkpoint, peeked_age, read_config, steps_of

    tokenizer = base / "tokenizer" / "tokenizer.pkl"
    for name, place in NANOCHAT.items():
        folder = base / place
        for tag in sorted((p.name for p in folder.iterdir() if p.is_dir()), key=_depth) if folder.is_dir() else []:
            for step, path in sorted(steps_of(folder / tag).items()):
                one = Found(f"{name}/{tag}/{step}", path, path.stat().st_size, step=step)
                try:
                    config = read_config(find_checkpoint(folder, tokenizer, tag, step).meta)
                    age, note = peeked_age(path, config), "" if tokenizer.is_file() else f"{tokenizer} is missing"
                    yield Found(one.name, path, one.size, age, config["n_embd"], step, note)
                except ModelError as error:
                    yield Found(one.name, path, one.size, step=step, note=str(error))


def _depth(tag: str) -> tuple[int, str]:
    digits = "".join(c for c in tag if c.isdigit())
    return int(digits or 0), tag


def model_lines(found: list[Found]) -> list[str]:
    """A table for people."""
    lines = [f"  {'name':<26}{'size':>9}{'age':>9}{'dimension':>11}{'step':>8}  where"]
    for one in found:
        size = f"{one.size / 1e6:,.0f} MB" if one.size else "–"
        cells = f"{one.age or '–':>9}{one.dimension or '–':>11}{'–' if one.step is None else one.step:>8}"
        lines.append(f"  {one.name:<26}{size:>9}{cells}  {one.path if one.size else ''}")
        if one.note:
            lines.append(f"  {'':<26}  {one.note}")
    return lines
