"""GGUF files: de-quantised once, to float32 safetensors in the base directory, and loaded from there ever after."""

from __future__ import annotations

import importlib.util
from functools import lru_cache, partial
from pathlib import Path

from kat.artifacts import first_difference, manifest, read_manifest, write_folder_manifest
from kat.atomic import saving
from kat.config import base_directory
from kat.digests import sha256_file
from kat.errors import KatError, MissingExtraError, ModelError
from kat.outputs import output_folder
from kat.terminal import bar_off, note

_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_PACKAGES = {"gguf": "'gguf>=0.10'", "accelerate": "'accelerate>=1'"}
"""Modules that transformers reads such files with, and how to ask for them."""


def dequantised(path: Path, sha256: str | None = None) -> Path:
    """Return the folder that holds a GGUF file's model as safetensors; made if it is not there.

    It lies in BASE/models, named by the file and its hash, and has a manifest, without which it does not count.
    `sha256`, if given, is what the file must hash to. Raises ModelError for a file that cannot be read, or another
    than was expected; MissingExtraError without gguf.
    """
    stat = path.stat()
    digest = _digest(path, stat.st_size, stat.st_mtime_ns)
    if sha256 and digest != sha256:
        raise ModelError(f"{path} is not the file expected: sha256 {digest}. Install its package again.")
    folder = base_directory() / "models" / f"{path.stem}-{digest[:12]}"
    expected = manifest("gguf", {"gguf": digest}, {"dtype": "float32"})
    present = read_manifest(folder)
    if present and not first_difference(present, expected) and all((folder / name).is_file() for name in _FILES):
        return folder
    for module, needed in _PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(f"{path} is a GGUF file, and {module} is not installed. Type: pip install {needed}")
    note(f"models    de-quantises {path.name} once → {folder}")
    with output_folder(folder) as (scratch, _):
        _convert(path, scratch)
        write_folder_manifest(scratch, expected, source=str(path.name))
    return folder


@lru_cache(maxsize=8)
def _digest(path: Path, size: int, changed: int) -> str:
    return sha256_file(path)


def _convert(path: Path, folder: Path) -> None:
    import torch
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # The bar over tensors is none that transformers' own switch reaches.
    modeling_gguf_pytorch_utils.tqdm = partial(tqdm, disable=bar_off())
    where = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    try:
        _check_depth(path)
        AutoTokenizer.from_pretrained(path.parent, **where).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
        # transformers keeps the mark of the quantisation on the model, and refuses to save it.
        plain = {k: v for k, v in model.config.to_dict().items() if k != "quantization_config"}
        fresh = type(model)(type(model.config).from_dict(plain | {"dtype": "float32"}))
        fresh.load_state_dict(model.state_dict())
        fresh.generation_config = model.generation_config
        with saving(folder):
            fresh.save_pretrained(folder)
    except KatError:
        raise
    except Exception as error:  # the readers of this format raise whatever a damaged file makes them meet
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} cannot be read as a GGUF model: {first}") from error
    finally:
        logging.set_verbosity(before)


def _check_depth(path: Path) -> None:
    """Raise ModelError if the header counts more layers than the file holds tensors: all of them would be built."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    for name, field in reader.fields.items():
        if name.endswith(".block_count") and (count := int(field.parts[-1][0])) > len(reader.tensors):
            raise ModelError(f"{path}: {name} is {count:,}, but the file holds {len(reader.tensors):,} tensors.")
