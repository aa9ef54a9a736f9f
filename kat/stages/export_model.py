"""A model of any source → a Hugging Face folder. Its command is `kat export`."""

from __future__ import annotations

import shutil
from pathlib import Path

from kat.artifacts import MANIFEST
from kat.atomic import saving
from kat.folders import entries
from kat.models.digests import model_inputs
from kat.models.nanochat.layout import MODEL_TYPE
from kat.models.sources import resolve
from kat.stages.stage import labelled, stage

CONFIG = "config.json"


def export_model(source: str, out: Path, allow_network: bool, overwrite: bool) -> None:
    """Write a model's files as safetensors, with its tokenizer and settings. Weights in pickles are read and saved."""
    model = resolve(source, allow_network=allow_network)
    with stage(
        "export",
        out,
        inputs=model_inputs(model),
        options={},
        files=(CONFIG,),
        apart=[model.path],
        alone=True,
        overwrite=overwrite,
    ) as job:
        if job.done:
            return
        if entries(model.path, "*.safetensors"):
            _copy(model.path, job.folder)
        else:
            _save(source, model.path, job.folder, allow_network)
        job.say(f"{source} as a Hugging Face folder", [labelled("next", next_step(out, job.folder))])


def _copy(model: Path, folder: Path) -> None:
    for path in (p for p in model.iterdir() if p.name != MANIFEST):
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)


def _save(source: str, model: Path, folder: Path, allow_network: bool) -> None:
    from kat.models.load import load_model

    kind = "causal" if "CausalLM" in (model / CONFIG).read_text() else "encoder"
    loaded = load_model(source, kind=kind, device="cpu", dtype="float32", allow_network=allow_network)
    with saving(folder):
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)


def next_step(out: Path, folder: Path) -> str:
    """Say how the model of a `folder`, which is or will be `out`, is read."""
    if (folder / CONFIG).is_file() and MODEL_TYPE in (folder / CONFIG).read_text():
        return "import kat.models.nanochat.modeling and call register() before AutoModel reads it"
    return f'transformers.AutoModel.from_pretrained("{out}")'
