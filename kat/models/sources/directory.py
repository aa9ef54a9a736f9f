"""A local directory with a config.json or a modules.json."""

from __future__ import annotations

from kat.errors import ModelError
from kat.models.sources import ModelSource, Source, local_path


def _accepts(name: str) -> bool:
    return local_path(name).is_dir()


def _find(name: str, allow_network: bool) -> ModelSource:
    path = local_path(name)
    if not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        names = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        raise ModelError(f"{path} is no model directory: config.json was looked for, it holds {names}.")
    return ModelSource(name, path)


PLUGIN = Source(
    name="directory",
    help="a local directory of transformers or sentence-transformers",
    find=_find,
    accepts=_accepts,
)
