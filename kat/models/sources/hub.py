"""A name of the Hugging Face hub, from its local cache, or downloaded where that is allowed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from kat.errors import ModelError
from kat.models.sources import ModelSource, Source, local_path, near_paths

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def _accepts(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and not local_path(name).exists()


def _find(name: str, allow_network: bool) -> ModelSource:
    # Imported here: every name is held against every source, and few of them are the hub's.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    offline = not allow_network or os.environ.get("HF_HUB_OFFLINE") == "1"
    try:
        return ModelSource(name, Path(snapshot_download(name, local_files_only=offline)))
    except LocalEntryNotFoundError:
        remedy = "Add --allow_network to download it" if offline else "The hub could not be reached"
        raise ModelError(
            f"{name} is neither a local directory{near_paths(name)} nor in the hub's local cache. {remedy}, "
            "or name a bundled model: kat models."
        ) from None
    except HfHubHTTPError as error:
        raise ModelError(f"The hub does not give {name}: {error}") from error


PLUGIN = Source(
    name="hub",
    help="a model of the Hugging Face hub: its local cache, or the network where allowed",
    find=_find,
    accepts=_accepts,
)
