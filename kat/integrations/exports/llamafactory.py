"""LLaMA-Factory, which has no weight of a row: a weighted pass in its sharegpt format, and dataset_info.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kat.integrations.calls import as_json, calls_of
from kat.integrations.contexts import Contents, contents_of
from kat.integrations.drawn_pairs import has_rows, marks_beside, write_drawn_pairs
from kat.integrations.exports import DataSet, Export
from kat.integrations.rows import WeighedPair, WeighedPairs, context_of, extras, sides_of
from kat.pair_weights.storage import PairWeights
from kat.records import Message

_ASK, _ANSWER = ("user", "tool"), ("assistant", "function_call")
_FILES = {"train": "pairs.train.jsonl", "validation": "pairs.validation.jsonl"}
_NAMES = {"train": "kat", "validation": "kat_validation"}
"""Of the data sets in dataset_info.json, by part."""
_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}


def pair_row(weighed: WeighedPair, tools: bool) -> dict[str, Any] | None:
    """Return a pair in the sharegpt format with `ranking`; `tools` says that every row has the column of that name.

    None of a pair that LLaMA-Factory would skip: turns must alternate, and a completion be one turn.
    """
    pair = weighed.pair
    sides = sides_of(pair)
    if any(len(messages) != 1 for messages in sides.values()):
        return None
    context = [_turn(message) for message in context_of(pair)]
    answers = {name: _turn(messages[0]) for name, messages in sides.items()}
    if not _alternate(context) or any(one is None or one["role"] not in _ANSWER for one in answers.values()):
        return None
    row = {"messages": context} | answers | extras(pair)
    if tools:
        row["tools"] = as_json([tool.get("function", tool) for tool in pair.tools]) if pair.tools else ""
    return row | marks_beside(weighed)


def _turn(message: Message) -> dict[str, str] | None:
    """Return a message as a turn; None if it holds both text and calls, of which a turn has one."""
    calls = calls_of(message)
    if calls is None or (calls and message["content"]):
        return None
    if calls:
        return {"role": "function_call", "content": as_json(calls)}
    return {"role": message["role"], "content": message["content"]}


def _alternate(turns: list[dict[str, str] | None]) -> bool:
    """Tell whether turns, after a system's if there is one, ask and answer in turn and end on a question."""
    roles = [turn["role"] if turn else "" for turn in turns]
    roles = roles[1:] if roles[:1] == ["system"] else roles
    return len(roles) % 2 == 1 and all(role in (_ANSWER if i % 2 else _ASK) for i, role in enumerate(roles))


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> Contents:
    """Write a weighted pass of pairs, those that validate, and the file by which LLaMA-Factory finds them."""
    contents = contents_of(weighed())
    tools = contents.tools > 0
    contents.left_out["pairs"] = write_drawn_pairs(weighed, lambda pair: pair_row(pair, tools), folder, seed)
    columns = {"messages": "messages", "chosen": "chosen", "rejected": "rejected"}
    info = {
        _NAMES[part]: {
            "file_name": name,
            "formatting": "sharegpt",
            "ranking": True,
            "columns": columns | ({"tools": "tools"} if tools else {}),
            "tags": _TAGS,
        }
        for part, name in _FILES.items()
        if has_rows(folder / name)
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    return contents


PLUGIN = Export(
    name="llamafactory",
    help="LLaMA-Factory: a weighted pass of pairs, and dataset_info.json",
    write=write,
    first_file="pairs.train.jsonl",
    data_sets=(
        DataSet("pairs", "a weighted pass of pairs, each as often as it is drawn; and those that validate", _FILES),
    ),
    notes={
        "margin": "LLaMA-Factory does not read it",
        "rich": "calls become its turns function_call; names and ids of calls have no place in it",
    },
    limits={
        "pairs": "LLaMA-Factory would skip them: its turns alternate from a user's or one tool's to an assistant's, "
        "which is text or calls, and a completion is one turn"
    },
    next_step="llamafactory-cli train --stage dpo --do_train --dataset_dir {out}/ --dataset kat --model_name_or_path "
    "MODEL --template TEMPLATE --output_dir DIR; for a reward model --stage rm; where pairs validate also "
    "--eval_dataset kat_validation --eval_strategy steps",
)
