"""Embed two texts as sentence-transformers does, where it is installed, and warn where kat's vectors are others.

Once for a state of a model's files: the verdict is kept in the base directory. Never a failure, and nothing that comes
with a model is run. KAT_SELF_CHECK=off switches it off.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kat import __version__
from kat.artifacts import json_bytes
from kat.atomic import atomic_file
from kat.config import NO_PROMPT, OF_FILES, EmbedOptions, base_directory
from kat.errors import KatError, OutputError
from kat.models.digests import settings_digest, weights_digest
from kat.models.own_code import ELSEWHERE
from kat.models.sources import ModelSource, resolve

SWITCH = "KAT_SELF_CHECK"
TOLERANCE = 1e-3
"""The largest 1 − cosine that rounding may make."""
MOST_BYTES = 2_000_000_000
"""Of weights: a larger model is not loaded a second time for this."""
TEXTS = ("How do I bake rye bread at home?", "Write a HAIKU about Rain in the City.")


def self_check(options: EmbedOptions) -> float | None:
    """Return the least cosine between kat's vectors of two texts and sentence-transformers', None if not compared.

    Compared are models in a directory of sentence-transformers that pin no digest of their own (kat's tests compare
    those). Warns where it is under 1 − `TOLERANCE`.
    """
    if os.environ.get(SWITCH, "on").lower() in ("off", "0", "no") or not _installed():
        return None
    source = resolve(options.source, allow_network=options.allow_network)
    if source.sha256 or not (source.path / "modules.json").is_file() or _bytes(source.path) > MOST_BYTES:
        return None
    try:
        file = _verdict_file(source, options)
    except OutputError:  # no home to keep a verdict in
        file = None
    cosine = None if file is None else _read(file)
    if cosine is None:
        cosine = _compare(source, options)
        if file is not None:
            _write(file, {"model": source.name, "cosine": cosine})
    if cosine is not None and cosine < 1 - TOLERANCE:
        warnings.warn(
            f"kat reads {source.name} otherwise than sentence-transformers {version('sentence-transformers')}: the "
            f"cosine between their vectors of one text is {cosine:.3f}. Likely a setting in its files that kat does "
            f"not carry out (pooling, prompt, tokenizer, further modules). {ELSEWHERE}",
            stacklevel=2,
        )
    return cosine


def _installed() -> bool:
    return importlib.util.find_spec("sentence_transformers") is not None


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.suffix in (".safetensors", ".bin"))


def _verdict_file(source: ModelSource, options: EmbedOptions) -> Path:
    """Return where the verdict lies: named by all that it may depend on."""
    state = (weights_digest(source), settings_digest(source), options.prompt_name or "", __version__)
    digest = hashlib.sha256("\n".join([*state, version("sentence-transformers")]).encode()).hexdigest()
    return base_directory() / "models" / "self_checks" / f"{digest[:16]}.json"


def _read(file: Path) -> float | None:
    try:
        cosine = orjson.loads(file.read_bytes())["cosine"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return cosine if isinstance(cosine, float) else None


def _write(file: Path, verdict: dict[str, Any]) -> None:
    if verdict["cosine"] is None:
        return
    with contextlib.suppress(OSError, KatError):  # a base directory that cannot be written: it is asked again next time
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as out:
            out.write(json_bytes(verdict))


def _compare(source: ModelSource, options: EmbedOptions) -> float | None:
    from kat.embedding.encoder import Encoder

    plain = replace(options, precision="float32", pooling=None, render="plain", processes=1, max_unknown=None)
    fields = {name: value for name, value in vars(plain).items() if name not in ("model", *OF_FILES)}
    with _quiet():
        try:
            peer = _peer(source.path, options.prompt_name)
            with Encoder(options.model, device="cpu", **fields) as encoder:
                ours = encoder.encode(TEXTS).vectors
        # Another package, in a version that kat does not choose, on a model that it may not know: whatever it raises
        # says that nothing can be compared, and embedding goes on.
        except Exception as error:
            logging.getLogger(__name__).info("not compared with sentence-transformers: %s", error)
            return None
    if peer.shape != ours.shape:
        return 0.0
    return float((peer * ours).sum(axis=1).min())


def _peer(folder: Path, prompt_name: str | None) -> np.ndarray:
    """Return unit vectors [2, D] by sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(str(folder), device="cpu", trust_remote_code=False, local_files_only=True).float()
    prompt: dict[str, Any] = {"prompt": ""} if prompt_name == NO_PROMPT else {"prompt_name": prompt_name}
    vectors = np.asarray(model.encode(list(TEXTS), show_progress_bar=False, **prompt), np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what two loadings of a model say out of the way: kat says it once, where it loads the model for work."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
