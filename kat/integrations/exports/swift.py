"""ms-swift, which has no weight of a row: a weighted pass of pairs in its messages format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kat.integrations.calls import as_json, calls_of
from kat.integrations.contexts import Contents, contents_of
from kat.integrations.drawn_pairs import marks_beside, write_drawn_pairs
from kat.integrations.exports import DataSet, Export
from kat.integrations.rows import WeighedPair, WeighedPairs, context_of, sides_of
from kat.pair_weights.storage import PairWeights
from kat.records import Message

_ROLES = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool_response"}


@dataclass(frozen=True)
class Columns:
    """Which columns all rows have: ms-swift deletes a row whose `rejected_response` is null, and reads the margins of a
    batch as one tensor.

    `response`: the rejected text alone stands for the second conversation. `margin`: every pair has one.
    """

    response: bool
    margin: bool


def columns_of(pairs: Iterable[WeighedPair]) -> Columns:
    """Look at all pairs once.

    `rejected_response` replaces all that follows the last user's turn, so a context must end on that.
    """
    response = margin = True
    for weighed in pairs:
        pair, sides = weighed.pair, sides_of(weighed.pair)
        plain = all(len(one) == 1 and calls_of(one[0]) == [] for one in sides.values())
        response = response and plain and context_of(pair)[-1]["role"] == "user"
        margin = margin and pair.margin is not None
    return Columns(response, margin)


def pair_row(weighed: WeighedPair, columns: Columns) -> dict[str, Any] | None:
    """Return a pair as one conversation that ends on the chosen completion, and what was rejected.

    None of a pair with a role, or a system's turn in the middle, that ms-swift refuses.
    """
    pair = weighed.pair
    both = {name: _turns([*context_of(pair), *messages]) for name, messages in sides_of(pair).items()}
    if both["chosen"] is None or both["rejected"] is None:
        return None
    tools = as_json(pair.tools) if pair.tools else None
    row: dict[str, Any] = {"messages": both["chosen"]}
    if columns.response:
        row["rejected_response"] = both["rejected"][-1]["content"]
    else:
        row["rejected_messages"] = both["rejected"]
    if tools:
        row |= {"tools": tools} if columns.response else {"tools": tools, "rejected_tools": tools}
    if columns.margin:
        row["margin"] = pair.margin
    return row | marks_beside(weighed)


def _turns(messages: list[Message]) -> list[dict[str, str]] | None:
    """Return messages as turns, with one turn for every call."""
    turns = []
    for place, message in enumerate(messages):
        calls, role = calls_of(message), message["role"]
        if calls is None or role not in _ROLES or (role == "system" and place):
            return None
        if message["content"] or not calls:
            turns.append({"role": _ROLES[role], "content": message["content"]})
        turns += [{"role": "tool_call", "content": as_json(call)} for call in calls]
    return turns


def write(weighed: WeighedPairs, table: PairWeights, folder: Path, seed: int) -> Contents:
    """Write a weighted pass of pairs, and those that validate."""
    contents, columns = contents_of(weighed()), columns_of(weighed())
    contents.left_out["pairs"] = write_drawn_pairs(weighed, lambda pair: pair_row(pair, columns), folder, seed)
    return contents


PLUGIN = Export(
    name="swift",
    help="ms-swift: a weighted pass of pairs",
    write=write,
    first_file="pairs.train.jsonl",
    data_sets=(
        DataSet(
            "pairs",
            "a weighted pass of pairs, each as often as it is drawn; and those that validate",
            {"train": "pairs.train.jsonl", "validation": "pairs.validation.jsonl"},
        ),
    ),
    notes={
        "margin": "a column where every pair has one, which ms-swift reads for reward models and not for DPO",
        "prefill": "ms-swift joins it and the completion into one turn (rejected_messages, from ms-swift 3.8 on)",
        "rich": "calls become its turns tool_call; names and ids of calls have no place in it",
    },
    limits={"pairs": "ms-swift takes the roles system, which comes first, user, assistant and tool"},
    next_step="swift rlhf --rlhf_type dpo --model MODEL --dataset {out}/pairs.train.jsonl; for a reward model "
    "--rlhf_type rm; where pairs validate also --val_dataset {out}/pairs.validation.jsonl",
)
