"""axolotl, which has no weight of a row: weighted passes of pairs, for DPO and for reward models, and their YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kat.integrations.calls import CALLS, as_json, calls_of
from kat.integrations.contexts import Contents, contents_of
from kat.integrations.drawn_pairs import has_rows, marks_beside, write_drawn_pairs
from kat.integrations.exports import DataSet, Export
from kat.integrations.rows import PARTS, WeighedPair, WeighedPairs, context_of, extras, sides_of
from kat.pair_weights.storage import PairWeights
from kat.records import Message

_ROLES = ("system", "user", "assistant", "tool")
_HEAD = """\
# Written by kat export-weights, to be put into a configuration of yours. Paths are seen from this folder.
"""
_DPO = """\
    type: chat_template.default
    field_messages: messages
    field_chosen: chosen
    field_rejected: rejected
    message_property_mappings:
      role: role
      content: content
    roles:
      system: [system]
      user: [user]
      assistant: [assistant]
      tool: [tool]
"""
_REWARD = """\
    type: bradley_terry.chat_template
"""
_CONFIGS = {
    "pairs": ("dpo.yaml", "rl: dpo\n", _DPO),
    "reward": (
        "reward.yaml",
        "model_type: AutoModelForSequenceClassification\nnum_labels: 1\nreward_model: true\n",
        _REWARD,
    ),
}
"""Of each data set: the file that finds it, its first lines, and the last lines of its entries."""


def pair_row(weighed: WeighedPair) -> dict[str, Any] | None:
    """Return a pair for `chat_template.default`, which takes the messages of a context and one of each completion.

    None of a pair with a completion of several messages, of which axolotl would train the last alone. `tools` is JSON,
    and there in every row, as axolotl removes the column.
    """
    pair = weighed.pair
    sides = sides_of(pair)
    context = [_message(message) for message in context_of(pair)]
    answers = {name: _message(messages[0]) for name, messages in sides.items() if len(messages) == 1}
    if len(answers) < 2 or None in context or any(map(_is_silent, answers.values())):
        return None
    return {"messages": context} | answers | extras(pair) | {"tools": as_json(pair.tools or [])} | marks_beside(weighed)


def _message(message: Message) -> Message | None:
    """Return a message whose calls have their arguments as text, as Arrow would give each call the keys of all."""
    calls = calls_of(message)
    if message["role"] not in _ROLES or calls is None:
        return None
    if not calls:
        return message
    held = message.get("tool_calls") or [{}]
    texts = [{"name": call["name"], "arguments": as_json(call["arguments"])} for call in calls]
    named = [{"id": old.get("id"), "type": "function", "function": text} for old, text in zip(held, texts, strict=True)]
    return {name: value for name, value in message.items() if name not in CALLS} | {"tool_calls": named}


def _is_silent(message: Message | None) -> bool:
    return message is None or not (message.get("tool_calls") or (message["content"] or "").strip())


def reward_row(weighed: WeighedPair) -> dict[str, Any] | None:
    """Return a pair for `bradley_terry.chat_template`; None unless it is a user's turn, after a system's perhaps, and
    completions of one text."""
    pair = weighed.pair
    context, sides = context_of(pair), sides_of(pair)
    roles = [message["role"] for message in context]
    if roles not in (["user"], ["system", "user"]) or pair.tools or any(len(one) != 1 for one in sides.values()):
        return None
    if any(calls_of(one[0]) != [] or _is_silent(one[0]) for one in sides.values()):
        return None
    texts = {name: messages[0]["content"] for name, messages in sides.items()}
    system = context[0]["content"] if len(context) == 2 else ""
    return {"system": system, "input": context[-1]["content"]} | texts | marks_beside(weighed)


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> Contents:
    """Write weighted passes of pairs, those that validate, and the YAML by which axolotl finds them.

    There is no file for reward models if no pair fits.
    """
    contents = contents_of(weighed())
    contents.left_out["pairs"] = write_drawn_pairs(weighed, pair_row, folder, seed)
    if any(pair.v is not None and reward_row(pair) for pair in weighed()):
        contents.left_out["reward"] = write_drawn_pairs(weighed, reward_row, folder, seed, name="reward")
    else:
        contents.left_out["reward"] = sum(1 for _ in weighed())
    for name, (file, head, entry) in _CONFIGS.items():
        if has_rows(folder / f"{name}.train.jsonl"):
            (folder / file).write_text(_config(folder, name, head, entry), encoding="utf-8")
    return contents


def _config(folder: Path, name: str, head: str, entry: str) -> str:
    """Return the YAML of a data set, whose pairs that validate are evaluated if there are any."""
    lists = ["datasets", "test_datasets"]
    text = _HEAD + head + "dataset_exact_deduplication: false  # a pass holds pairs more than once: those are weights\n"
    for key, part in zip(lists, PARTS, strict=True):
        if has_rows(folder / f"{name}.{part}.jsonl"):
            text += f"{key}:\n  - path: {name}.{part}.jsonl\n    ds_type: json\n    split: train\n{entry}"
    return text


def _files(name: str) -> dict[str, str]:
    return {part: f"{name}.{part}.jsonl" for part in PARTS}


PLUGIN = Export(
    name="axolotl",
    help="axolotl: weighted passes of pairs for DPO and reward models, and their YAML",
    write=write,
    first_file="pairs.train.jsonl",
    data_sets=(
        DataSet(
            "pairs",
            "a weighted pass of pairs, each as often as it is drawn; and those that validate",
            _files("pairs"),
        ),
        DataSet("reward", "the same for reward models: of pairs with one question", _files("reward")),
    ),
    notes={
        "margin": "axolotl does not read it",
        "prefill": "axolotl ends the turn that a context ends on, and begins another",
        "tools": "a version of axolotl whose chat_template.default has no field_tools drops them, and calls",
        "rich": "an axolotl without field_tools keeps role and content alone",
    },
    limits={
        "pairs": "axolotl takes one message as a completion, with a text or calls, and the roles system, user, "
        "assistant, tool",
        "reward": "bradley_terry.chat_template takes one question, after a system's turn perhaps, and no tools",
    },
    next_step="put {out}/dpo.yaml (for a reward model reward.yaml) into YOURS.yaml and, in {out}/: "
    "axolotl train YOURS.yaml",
)
