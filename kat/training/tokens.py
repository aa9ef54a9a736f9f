"""Pairs → token ids of prompts and of their distinct completions, cut to a limit, with everything that is left out
counted.

A completion is written down once a prompt, however many pairs compare it: pairs are index pairs over branches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from kat.data.repeats import content_id, pair_parts
from kat.errors import InputError, MismatchError, OptionError
from kat.models.chat import Chat
from kat.packing.trunks import Prompt
from kat.records import Message, Pair, canonical_json
from kat.terminal import note

TOO_LONG = "a completion longer than max_len − min_prompt"
IDENTICAL = "two completions with the same tokens"


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """Prompts with their branches, and P pairs over them.

    `prompt` [P] numbers each pair's prompt, `chosen` and `rejected` [P] the branches of it that are compared. `ids`
    are the pairs' ids, `margins` [P] float32 by how much the chosen reward is to exceed the other. `dropped` counts
    the pairs that are left out by reason, and `dropped_ids` names them; `cut` counts the prompts whose trunk lost
    tokens at its beginning, `tools_unread` those whose tools the chat template does not write; `max_len` is the
    limit that held. `without_margin` counts the pairs that count with a margin of 0 where others have one.
    """

    prompts: Sequence[Prompt]
    prompt: np.ndarray
    chosen: np.ndarray
    rejected: np.ndarray
    ids: Sequence[str]
    margins: np.ndarray
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_ids: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    tools_unread: int = 0
    max_len: int = 0
    without_margin: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: np.ndarray) -> TokenPairs:
        """Return some of the pairs, by number, over the same prompts."""
        columns = {name: getattr(self, name)[rows] for name in ("prompt", "chosen", "rejected", "margins")}
        return replace(self, ids=[self.ids[row] for row in rows.tolist()], **columns)


def tokenize_pairs(
    pairs: Iterable[Pair],
    chat: Chat,
    *,
    max_len: int,
    min_prompt: int,
    long_completions: str = "error",
    identical: str = "drop",
    seen: Callable[[str, Pair], object] | None = None,
    model_limit: int | None = None,
) -> TokenPairs:
    """Return the pairs as tokens; their order is that of the file, but for those that are dropped.

    A prompt's trunk is cut from the left, once for the whole file, to `max_len` less its longest branch. A branch of
    more than `max_len` − `min_prompt` tokens is an error, or its pairs are dropped ("drop"). A pair whose completions
    have the same tokens is dropped, for nothing can be learned from it, unless `identical` is "keep".
    `seen` is told each pair's distinct id; `model_limit` is what `max_len` cannot exceed, for what an error advises.

    Raises InputError naming the row of a completion that is too long, MismatchError for an id that stands twice,
    OptionError for limits that leave a completion no room.
    """
    if not 0 <= min_prompt < max_len:
        raise OptionError(f"min_prompt is {min_prompt} and max_len {max_len}; expected 0 ≤ min_prompt < max_len.")
    writer, room = _Writer(chat), max_len - min_prompt
    rows: list[tuple[int, int, int]] = []
    ids: list[str] = []
    margins: list[float] = []
    given: list[bool] = []
    dropped: dict[str, str] = {}
    names = _Names()
    for pair in map(_whole, pairs):
        pair_id = names.name(pair)
        if seen is not None:
            seen(pair_id, pair)
        number, chosen, rejected = writer.add(pair)
        longest = writer.length(number, chosen, rejected)
        if longest > room:
            if long_completions == "error":
                at_limit = model_limit is not None and max_len >= model_limit
                remedy = f"Lower --min_prompt (the model reads {max_len:,} at most)" if at_limit else "Raise --max_len"
                raise InputError(
                    f"row {pair.row:,} (pair {pair.id}): a completion of {longest:,} tokens; max_len {max_len:,} less "
                    f"min_prompt {min_prompt:,} leaves {room:,}. {remedy}, or leave such pairs out: "
                    "--long_completions drop"
                )
            dropped[pair_id] = TOO_LONG
        elif chosen == rejected and identical == "drop":
            dropped[pair_id] = IDENTICAL
        else:
            rows.append((number, chosen, rejected))
            ids.append(pair_id)
            margins.append(pair.margin or 0.0)
            given.append(pair.margin is not None)
    table = np.asarray(rows, np.int64).reshape(-1, 3).T
    prompts, branch_of, cut = writer.finish(table, max_len)
    prompt, chosen_of, rejected_of = table
    return TokenPairs(
        prompts=prompts,
        prompt=prompt,
        chosen=_renumbered(branch_of, prompt, chosen_of),
        rejected=_renumbered(branch_of, prompt, rejected_of),
        ids=ids,
        margins=np.asarray(margins, np.float32),
        dropped=Counter(dropped.values()),
        dropped_ids=dropped,
        cut=cut,
        tools_unread=writer.tools_unread,
        max_len=max_len,
        without_margin=given.count(False) if any(given) else 0,
    )


def _whole(pair: Pair) -> Pair:
    """A pair with its messages; one that was made by hand may hold its prefix and texts alone."""
    if pair.context and pair.chosen_messages and pair.rejected_messages:
        return pair
    turns = [[{"role": "assistant", "content": text}] for text in (pair.chosen, pair.rejected)]
    return replace(
        pair,
        context=pair.context or pair.prefix.messages,
        chosen_messages=pair.chosen_messages or turns[0],
        rejected_messages=pair.rejected_messages or turns[1],
    )


class _Names:
    """Distinct ids of pairs: one of content that stood before, of an exact duplicate, gets "#2", "#3", …"""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def name(self, pair: Pair) -> str:
        """Return a pair's id. Raises MismatchError for an id of the file's own that stood before."""
        name, number = pair.id, 1
        if name in self._taken and name != content_id(pair_parts(pair)):
            raise MismatchError(
                f"row {pair.row:,}: the pair id {name} stood before. A pass that was drawn with repeats is no file of "
                "pairs: train on the pairs that it was drawn from, with their weights."
            )
        while name in self._taken:
            number += 1
            name = f"{pair.id}#{number}"
        self._taken.add(name)
        return name


def _renumbered(branch_of: Sequence[dict[int, int]], prompt: np.ndarray, branch: np.ndarray) -> np.ndarray:
    numbers = (branch_of[p][b] for p, b in zip(prompt.tolist(), branch.tolist(), strict=True))
    return np.fromiter(numbers, np.int64, len(prompt))


class _Branch(NamedTuple):
    """What a completion goes on from, in tokens of its prompt's trunk, and its own token ids: the bytes of int32, for
    a list of numbers takes nine times the memory, and all texts of a file are held at once."""

    shared: int
    tokens: bytes

    @property
    def ids(self) -> np.ndarray:
        return np.frombuffer(self.tokens, np.int32)


@dataclass(eq=False)
class _Rendered:
    """A context: its token ids [T] int32, the first `before` of which are not its rendering's, and its completions in
    the order that they were met, by text and by tokens."""

    trunk: np.ndarray
    before: int = 0
    by_text: dict[str, int] = field(default_factory=dict)
    by_tokens: dict[_Branch, int] = field(default_factory=dict)
    branches: list[_Branch] = field(default_factory=list)


class _Writer:
    """Contexts and completions as they are met: each context is rendered once, each of its completions once."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.tools_unread = 0
        self._numbers: dict[str, int] = {}
        self._contexts: list[_Rendered] = []

    def add(self, pair: Pair) -> tuple[int, int, int]:
        """Return the numbers of a pair's prompt and of its two branches."""
        key = canonical_json([pair.context, pair.tools])
        if key not in self._numbers:
            self._numbers[key] = len(self._contexts)
            self._contexts.append(self._rendered(pair))
            self.tools_unread += bool(pair.tools) and not self.chat.takes_tools
        number = self._numbers[key]
        chosen, rejected = (
            self._branch(self._contexts[number], pair, turns)
            for turns in (pair.chosen_messages, pair.rejected_messages)
        )
        return number, chosen, rejected

    def _rendered(self, pair: Pair) -> _Rendered:
        """A context's tokens, with the one before that an encoder's sequences begin with and no template writes."""
        trunk, begin = self.chat.render(pair.context, pair.tools), self.chat.begin
        if self.chat.kind == "plain" and trunk[: len(begin)] != begin:
            return _Rendered(np.asarray([*begin, *trunk], np.int32), before=len(begin))
        return _Rendered(np.asarray(trunk, np.int32))

    def length(self, number: int, *branches: int) -> int:
        """Return the tokens of the longest of some branches, from where its prompt's trunk ends."""
        context = self._contexts[number]
        own = (context.branches[b] for b in branches)
        return max(len(branch.ids) + len(context.trunk) - branch.shared for branch in own)

    def _branch(self, context: _Rendered, pair: Pair, turns: list[Message]) -> int:
        text = canonical_json(turns)
        if text not in context.by_text:
            shared, tokens = self.chat.render_turns(pair.context, turns, pair.tools)
            if not tokens:
                raise InputError(f"row {pair.row:,} (pair {pair.id}): a completion without tokens.")
            branch = _Branch(shared + context.before, np.asarray(tokens, np.int32).tobytes())
            if branch not in context.by_tokens:
                context.by_tokens[branch] = len(context.branches)
                context.branches.append(branch)
            context.by_text[text] = context.by_tokens[branch]
        return context.by_text[text]

    def finish(self, table: np.ndarray, max_len: int) -> tuple[list[Prompt], list[dict[int, int]], int]:
        """Return the prompts with the branches that pairs (prompt, chosen, rejected) [3, P] still name, the new
        number of each branch, and how many trunks were cut.

        Where a branch parts from its context before the end of that, the common beginning is the trunk.
        """
        used: list[set[int]] = [set() for _ in self._contexts]
        for number, *branches in table.T.tolist():
            used[number].update(branches)
        prompts, branch_of, cut = [], [], 0
        for context, kept in zip(self._contexts, map(sorted, used), strict=True):
            own = context.branches
            shared = min((own[b].shared for b in kept), default=len(context.trunk))
            whole = [np.concatenate([context.trunk[shared : own[b].shared], own[b].ids]) for b in kept]
            room = max(max_len - max(map(len, whole), default=0), 0)
            # A branch that begins with much of its context can be too long by itself: that beginning is cut too.
            branches = [branch[max(len(branch) - max_len, 0) :] for branch in whole]
            cut += bool(kept) and (shared > room or any(len(branch) > max_len for branch in whole))
            prompts.append(Prompt(self._cut(context.trunk[:shared], room), branches))
            branch_of.append({b: i for i, b in enumerate(kept)})
        return prompts, branch_of, cut

    def _cut(self, trunk: np.ndarray, room: int) -> np.ndarray:
        """The last `room` tokens of a trunk, among them the one that every sequence begins with."""
        begin = self.chat.begin
        last = trunk[max(len(trunk) - room, 0) :].copy()
        if len(trunk) > room > len(begin) and trunk[: len(begin)].tolist() == begin:
            last[: len(begin)] = begin
        return last


def left_out(
    data: TokenPairs, pairs: Sequence[Pair], weights: Mapping[str, float] | Sequence[float] | None, name: str
) -> dict[str, Any]:
    """Return how many pairs do not train, by reason, and `prompt_facts`; and say so."""
    reasons = dict(data.dropped)
    if isinstance(weights, Mapping) and (unnamed := sum(pair.id not in weights for pair in pairs)):
        reasons["no weight"] = unnamed
    told = _told(name, data, reasons, len(pairs))
    if isinstance(weights, Mapping) and (unused := len(weights.keys() - {*data.ids, *data.dropped_ids})):
        note(f"{name}  {unused:,} of {len(weights):,} weights name none of the pairs")
        told["weights_of_no_pair"] = unused
    return told


def tell_unread(name: str, data: TokenPairs) -> None:
    """Say how many pairs are not read, by reason, and how many prompts are read in part, if any are."""
    _told(name, data, data.dropped, len(data) + data.dropped.total())


def _told(name: str, data: TokenPairs, reasons: Mapping[str, int], pairs: int) -> dict[str, Any]:
    for reason, count in reasons.items():
        note(f"{name}  {count:,} of {pairs:,} pairs left out: {reason}")
    facts = prompt_facts(data.cut, data.tools_unread)
    tell_prompts(name, facts, len(data.prompts), data.max_len)
    if data.without_margin:
        note(f"{name}  {data.without_margin:,} of {pairs:,} pairs have no margin, and count with 0")
        facts["pairs_without_margin"] = data.without_margin
    return {"left_out": reasons, **facts}


def prompt_facts(cut: int, tools_unread: int) -> dict[str, int]:
    """Return how many prompts lost their beginning, and how many have tools that the chat template does not write."""
    return {"prompts_cut": cut, "prompts_whose_tools_are_not_written": tools_unread}


def tell_prompts(name: str, facts: Mapping[str, int], count: int, max_len: int) -> None:
    """Say how many of `count` prompts are read in part, if any are."""
    if cut := facts["prompts_cut"]:
        lost = f"{cut:,} of {count:,} prompts lost their beginning"
        note(f"{name}  {lost}: with a completion {max_len:,} tokens are read")
    if unwritten := facts["prompts_whose_tools_are_not_written"]:
        note(f"{name}  the chat template does not write the tools of {unwritten:,} of {count:,} prompts")
