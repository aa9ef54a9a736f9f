"""Pictures, video and sound beside a text: they belong to its prompt, and text cannot carry them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MEDIA = {
    **dict.fromkeys(("image", "images", "image_url", "input_image", "pixel_values"), "images"),
    **dict.fromkeys(("video", "videos", "video_url"), "videos"),
    **dict.fromkeys(("audio", "audios", "audio_url", "input_audio"), "audio"),
}
"""Columns, and types of parts of a content, that belong to a prompt and that text cannot carry, by kind."""
_DATA_URLS = ("data:image/", "data:video/", "data:audio/")


def is_file(names: Iterable[str]) -> bool:
    """Tell whether the keys of an object are those of a file, as `datasets` holds pictures and sound."""
    return {"bytes", "path"} <= set(names)


def holds_media(value: Any) -> bool:
    """Tell whether a value is a picture or its like, or one stands anywhere inside of it: no recursion, however deep.

    Shown by the name of a key or the type of a part, by bytes beside a path, and by a data URL.
    """
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            if any(k in MEDIA and v and isinstance(v, str | bytes | list | dict) for k, v in each.items()):
                return True
            kind = each.get("type")
            if (isinstance(kind, str) and kind in MEDIA) or (is_file(each) and (each["bytes"] or each["path"])):
                return True
            left += each.values()
        elif isinstance(each, list):
            left += each
        elif isinstance(each, str) and each.startswith(_DATA_URLS):
            return True
    return False
