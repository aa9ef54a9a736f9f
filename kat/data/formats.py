"""Shapes of preference rows, and what each one says: history, chosen and rejected.

A shape is recognised by keys and types alone (`shape_of`) and taken apart by its own function into a `Judgement`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from kat.data.rows import BadRow
from kat.records import Message

# A turn of HH text starts with a blank line; the bare words also stand inside answers.
HH_TURN = re.compile(r"\n\n(Human|Assistant):(?: |\Z)")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


class Judgement(NamedTuple):
    """What a row says. `history` may still end on assistant turns; `chosen` and `rejected` are completions."""

    history: list[Message]
    chosen: str
    rejected: str


def shape_of(value: dict[str, Any]) -> str | None:
    """The name of a row's shape (a key of SHAPES), or None if it has none of them."""
    chosen, rejected = value.get("chosen"), value.get("rejected")
    if isinstance(value.get("prefix"), dict):
        return "kat"
    if "prompt" in value:
        return _shape_with_prompt(value["prompt"], chosen, rejected)
    if isinstance(chosen, list) and isinstance(rejected, list):
        return "trl-implicit"
    if isinstance(chosen, str) and isinstance(rejected, str) and (HH_TURN.match(chosen) or HH_TURN.match(rejected)):
        return "hh"
    return None


def _shape_with_prompt(prompt: Any, chosen: Any, rejected: Any) -> str | None:
    if isinstance(prompt, list):
        return "trl-explicit"
    if not isinstance(prompt, str):
        return None
    if isinstance(chosen, str) or isinstance(rejected, str):
        return "hh-prompt" if HH_TURN.match(prompt) else "trl-explicit"
    if isinstance(chosen, list) and isinstance(rejected, list):
        holds_user = any(isinstance(m, dict) and m.get("role") == "user" for m in [*chosen, *rejected])
        return "ultrafeedback" if holds_user else "trl-explicit"
    return None


def judgement(value: dict[str, Any], shape: str) -> Judgement:
    """Take one row apart.

    Raises BadRow: a part is missing, null or no text; histories differ; a tie; an empty or repeated completion.
    """
    found = SHAPES[shape](value)
    _reject_tie(value)
    for name, text in (("chosen", found.chosen), ("rejected", found.rejected)):
        if not isinstance(text, str):
            raise BadRow(f"{name} is null or not text")
        if not text or text.isspace():
            raise BadRow(f"{name} is empty")
    if found.chosen == found.rejected:
        raise BadRow("chosen equals rejected")
    return found


def _reject_tie(value: dict[str, Any]) -> None:
    if "score_chosen" not in value and "score_rejected" not in value:
        return
    scores = value.get("score_chosen"), value.get("score_rejected")
    if None in scores:
        return  # an unscored row is judged by its order
    if not all(isinstance(s, int) or (isinstance(s, float) and math.isfinite(s)) for s in scores):
        raise BadRow("score_chosen or score_rejected is not a number")
    if scores[0] == scores[1]:
        raise BadRow("a tie: score_chosen equals score_rejected")


def messages_of(value: Any, where: str) -> list[Message]:
    """A list of {"role", "content"}, other keys left behind. Raises BadRow if it is anything else."""
    if not isinstance(value, list):
        raise BadRow(f"{where} is null or no list of messages")
    messages = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRow(f"{where} holds a message without a role")
        content = message.get("content")
        if not isinstance(content, str):
            raise BadRow(f"{where} holds a message whose content is null or not text")
        messages.append({"role": message["role"], "content": content})
    return messages


def trim(history: list[Message]) -> list[Message]:
    """A conversation up to its last user message. Raises BadRow if it has none."""
    for end in range(len(history), 0, -1):
        if history[end - 1]["role"] == "user":
            return history[:end]
    raise BadRow('no user message (a role "user" is expected)')


def opening_of(messages: list[Message]) -> str:
    """The first user message. Raises BadRow if there is none or it is white space."""
    opening = next((m["content"] for m in messages if m["role"] == "user"), None)
    if opening is None:
        raise BadRow('no user message (a role "user" is expected)')
    if not opening or opening.isspace():
        raise BadRow("the opening (first user message) is white space")
    return opening


def row_id(value: dict[str, Any]) -> str | None:
    """A row's own id as text; None if it has none. Raises BadRow for one that is neither text nor a whole number."""
    given = value.get("id")
    if given is None:
        return None
    if isinstance(given, str) and given:
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    raise BadRow("id is neither text nor a whole number")


def parse_hh(text: Any, where: str) -> list[Message]:
    """HH text, turn by turn. Raises BadRow unless it starts with a turn."""
    if not isinstance(text, str):
        raise BadRow(f"{where} is null or not text")
    if not text.strip():
        raise BadRow(f"{where} is empty")
    parts = HH_TURN.split(text)
    if parts[0]:
        raise BadRow(f"{where} does not start with a turn (\\n\\nHuman: or \\n\\nAssistant: )")
    return [{"role": _HH_ROLES[r], "content": c} for r, c in zip(parts[1::2], parts[2::2], strict=True)]


def _split(messages: list[Message], where: str) -> tuple[list[Message], str]:
    """A whole conversation into its history and its completion, the last assistant turn."""
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRow(f"{where} does not end with an assistant turn")
    return messages[:-1], messages[-1]["content"]


def _joined(chosen: list[Message], rejected: list[Message]) -> Judgement:
    history, better = _split(chosen, "chosen")
    other, worse = _split(rejected, "rejected")
    if history != other:
        raise BadRow("histories of chosen and rejected differ")
    return Judgement(history, better, worse)


def _kat(value: dict[str, Any]) -> Judgement:
    history = messages_of(value["prefix"].get("messages"), "prefix")
    return Judgement(history, value.get("chosen"), value.get("rejected"))


def _hh(value: dict[str, Any]) -> Judgement:
    return _joined(parse_hh(value.get("chosen"), "chosen"), parse_hh(value.get("rejected"), "rejected"))


def _hh_prompt(value: dict[str, Any]) -> Judgement:
    history = parse_hh(value["prompt"], "prompt")
    if history and history[-1] == {"role": "assistant", "content": ""}:
        history.pop()  # the cue "\n\nAssistant:" that asks for the completion
    return Judgement(history, value.get("chosen"), value.get("rejected"))


def _trl_explicit(value: dict[str, Any]) -> Judgement:
    prompt, chosen, rejected = value.get("prompt"), value.get("chosen"), value.get("rejected")
    history = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else messages_of(prompt, "prompt")
    if isinstance(chosen, str) or isinstance(rejected, str):
        return Judgement(history, chosen, rejected)
    return _joined(history + messages_of(chosen, "chosen"), history + messages_of(rejected, "rejected"))


def _trl_implicit(value: dict[str, Any]) -> Judgement:
    return _joined(messages_of(value.get("chosen"), "chosen"), messages_of(value.get("rejected"), "rejected"))


def _ultrafeedback(value: dict[str, Any]) -> Judgement:
    found = _trl_implicit(value)
    users = [m["content"].strip() for m in found.history if m["role"] == "user"]
    if not isinstance(value["prompt"], str) or value["prompt"].strip() not in users:
        raise BadRow("prompt is no user turn of the conversation")
    return found


SHAPES: dict[str, Callable[[dict[str, Any]], Judgement]] = {
    "kat": _kat,
    "hh": _hh,
    "hh-prompt": _hh_prompt,
    "trl-explicit": _trl_explicit,
    "trl-implicit": _trl_implicit,
    "ultrafeedback": _ultrafeedback,
}

EXPECTED = """expected one of
    kat            {"prefix": {"messages": [...]}, "chosen": text, "rejected": text}
    hh             {"chosen": "\\n\\nHuman: …\\n\\nAssistant: …", "rejected": the same}
    hh-prompt      {"prompt": "\\n\\nHuman: …\\n\\nAssistant:", "chosen": text, "rejected": text}
    trl-explicit   {"prompt": text or messages, "chosen": text or messages, "rejected": the same}
    trl-implicit   {"chosen": messages, "rejected": messages}, the prefix inside both
    ultrafeedback  {"prompt": text, "chosen": messages, "rejected": messages, "score_chosen": …}"""
