"""The nouns of kat. One record flows from stage to stage; what a stage learns it adds beside, in row order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kat.array_records import ArrayRecord, Columns, Named, Rows, TableRecord, name_of, number, some_of, span

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

Message = dict[str, Any]
"""One turn: {"role": "system" | "user" | "assistant" | …, "content": text}, and what else its source holds.

`content` is None only beside `tool_calls` (or the older `function_call`): a turn that says nothing and calls.
"""


def message_text(message: Message) -> str:
    """Return a turn as plain text: its content, then a line for each tool call, `name({"argument": value})`.

    Arguments are JSON with sorted keys and no escapes beyond what JSON needs, whether the source holds an object or
    its text. The result of a call is the content of a turn of its own.
    """
    content = message.get("content") or ""
    calls = message.get("tool_calls") or message.get("function_call")
    if not calls:
        return content
    calls = calls if isinstance(calls, list) else [calls]
    return "\n".join([content, *map(_call_text, calls)] if content else map(_call_text, calls))


def _call_text(call: Any) -> str:
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict) or "name" not in function:
        return canonical_json(function)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
            return f"{function['name']}({'' if arguments is None else canonical_json(arguments)})"
        except (ValueError, RecursionError):
            return f"{function['name']}({arguments})"
    return f"{function['name']}({'' if arguments is None else canonical_json(arguments)})"


def canonical_json(value: Any) -> str:
    """Return JSON that is the same for equal values: sorted keys, characters as they are."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def conversation_text(messages: Sequence[Message]) -> str:
    """Return the turns' text in order, joined by one newline, without roles."""
    return "\n".join(map(message_text, messages))


@dataclass(frozen=True, slots=True)
class Unit:
    """What density is measured on, as texts for people call it; `a` has its article."""

    one: str
    several: str
    a: str

    def count(self, number: int) -> str:
        """Return a number of them: "1 opening", "2,000 openings"."""
        return f"{number:,} {self.one if number == 1 else self.several}"


OPENING, CONTEXT = Unit("opening", "openings", "an opening"), Unit("context", "contexts", "a context")


@dataclass(frozen=True, slots=True)
class Prefix:
    """A conversation up to and including its last user message.

    `id` is the opening's id, so prefixes that share an opening share it.

    >>> turns = [("user", "Hi"), ("assistant", "Hello!"), ("user", "2 + 2?")]
    >>> prefix = kat.Prefix("some id", [{"role": role, "content": text} for role, text in turns])
    >>> prefix.opening, prefix.part("last").text
    ('Hi', '2 + 2?')
    """

    id: str
    messages: list[Message]

    def part(self, text: str) -> Prefix:
        """Return the "conversation" itself, or its "opening" or "last" user message alone; the id stays."""
        users = [message for message in self.messages if message["role"] == "user"]
        if text == "conversation" or not users:
            return self
        return Prefix(self.id, [users[0] if text == "opening" else users[-1]])

    @property
    def opening(self) -> str:
        """The first user message: the unit of density."""
        return next(m["content"] for m in self.messages if m["role"] == "user")

    @property
    def text(self) -> str:
        """What is embedded: the contents in order, joined by one newline, without roles; tool calls as text."""
        return conversation_text(self.messages)


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference: `chosen` was preferred to `rejected` as the completion of `context`.

    `context` is the whole conversation before the completions, as the source has it: what trains. `prefix` is the
    context up to its last user message: what is embedded. `chosen` and `rejected` are the completions' text, and
    `chosen_messages` and `rejected_messages` the same as turns. `tools` are those that the conversation may call,
    `margin` how much better the chosen one is; None where the source does not say. `row` is the 1-based line (or
    parquet row) it came from. `labels` holds the columns that a reader was asked for by name, as text.

    >>> pair = next(iter(kat.read_pairs([{"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}])))
    >>> pair.prefix.opening, pair.chosen, pair.rejected
    ('2 + 2?', '4', '5')
    """

    id: str
    prefix: Prefix
    chosen: str
    rejected: str
    src: str
    row: int = 0
    context: list[Message] = field(default_factory=list)
    chosen_messages: list[Message] = field(default_factory=list)
    rejected_messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None
    margin: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, repr=False)
class Embeddings(TableRecord):
    """`vectors` [N, D] float32 of unit length; row i belongs to `ids[i]`.

    `tokens` [N] int32 counts the tokens of each text, `lost` [N] int32 those that the model's limit cut off;
    both are None for vectors that were not made by kat. `meta` says how they were made.

    >>> embeddings = kat.encode(["How do I bake bread?", "A bread recipe, please.", "Why is the sky blue?"])
    >>> embeddings
    Embeddings(3 × 384, model minilm)
    >>> bread, recipe, sky = embeddings.vectors
    >>> bool(bread @ recipe > bread @ sky)
    True
    >>> embeddings[:2].ids
    ['0', '1']
    """

    ids: Sequence[str]
    vectors: np.ndarray
    tokens: np.ndarray | None = None
    lost: np.ndarray | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.vectors)

    def _facts(self) -> Iterator[str]:
        yield " × ".join(f"{n:,}" for n in self.vectors.shape)
        if self.vectors.dtype != "float32":
            yield str(self.vectors.dtype)
        if self.meta.get("name"):
            yield f"model {name_of(self.meta['name'])}"
        if self.lost is not None and (cut := int((self.lost > 0).sum())):
            yield f"{number(cut, 'text')} cut off"

    def _columns(self) -> Columns:
        counts = {"tokens": self.tokens, "lost": self.lost}
        return {
            "id": self.ids,
            "embedding": self.vectors,
            **{name: column for name, column in counts.items() if column is not None},
        }

    def _values(self) -> np.ndarray:
        return self.vectors

    def _some(self, rows: Rows) -> Embeddings:
        parts = {name: some_of(getattr(self, name), rows) for name in ("ids", "vectors", "tokens", "lost")}
        return replace(self, **parts)

    def plot(self) -> Axes:
        """Draw the vectors on their first two principal components; return matplotlib's axes.

        Raises MissingExtraError without matplotlib.
        """
        from kat.plots import plane

        return plane(self.vectors, repr(self))


@dataclass(frozen=True, eq=False, repr=False)
class Halves(ArrayRecord):
    """The same openings seen from two disjoint halves of the data: what their densities share is not noise.

    `rows` [Q] int64 are the openings asked; `first` and `second` [Q, h] float32 are their distances to the h = k/2
    nearest distinct others in each half, ascending, which reach as far there as k do among all rows.
    """

    rows: np.ndarray
    first: np.ndarray
    second: np.ndarray

    def _facts(self) -> Iterator[str]:
        yield number(len(self.rows), "opening")
        yield f"{self.first.shape[-1]} nearest in each half"


@dataclass(frozen=True, eq=False, repr=False)
class Neighbors(TableRecord):
    """The k nearest *others* of every row, nearest first.

    `indices` [N, k] int64 and `distances` [N, k] float32, Euclidean (metric "cosine": between unit vectors, so that
    distance² = 2 − 2·cosine). Rows with identical vectors are neighbours at distance 0 like any other.
    `distinct_distances` [N, k'] float32 are the distances to the nearest distinct others, k' of them, and
    `multiplicity` [N] int64 the rows that share a row's vector, itself included: a density needs both, for a duplicate
    says that a place is crowded but not how far the next place is.
    `halves` is None where there are too few rows to split. `recall` is 1 for the exact search, and measured for an
    approximate one. `source` holds the embeddings, if they came as such. `targets` are the ids that `indices` point to
    where the rows are queries; None where they point to the rows themselves.

    >>> neighbors = kat.find_neighbors(np.array([[0.0], [0.1], [5.0]]), k=1, metric="euclidean")
    >>> neighbors.indices[:, 0].tolist()
    [1, 0, 1]
    >>> neighbors[2]
    {'id': '2', 'neighbors': ['1'], 'distances': array([4.9], dtype=float32)}
    """

    ids: Sequence[str]
    indices: np.ndarray
    distances: np.ndarray
    distinct_distances: np.ndarray
    multiplicity: np.ndarray
    metric: str = "cosine"
    halves: Halves | None = None
    recall: float = 1.0
    source: Embeddings | None = None
    targets: Sequence[str] | None = None

    @property
    def k(self) -> int:
        """How many neighbours each row has."""
        return self.indices.shape[1]

    def __len__(self) -> int:
        return len(self.indices)

    def _facts(self) -> Iterator[str]:
        if self.targets is None:
            yield number(len(self), "row")
        else:
            yield f"{len(self):,} {'query' if len(self) == 1 else 'queries'} among {number(len(self.targets), 'row')}"
        yield f"k {self.indices.shape[-1]}"
        yield name_of(self.metric)
        yield "exact" if self.recall == 1 else f"recall {self.recall:.4g}"

    def _columns(self) -> Columns:
        names = self.ids if self.targets is None else self.targets
        return {"id": self.ids, "neighbors": Named(self.indices, names), "distances": self.distances}

    def _values(self) -> np.ndarray:
        return self.indices

    def _some(self, rows: Rows) -> Neighbors:
        """Some rows are queries among all of them."""
        names = ("ids", "indices", "distances", "distinct_distances", "multiplicity")
        parts = {name: some_of(getattr(self, name), rows) for name in names}
        targets = self.ids if self.targets is None else self.targets
        return replace(self, **parts, halves=None, source=None, targets=targets)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw how far the nearest and the k-th nearest are; return matplotlib's axes.

        Raises InputError if there are no neighbours, MissingExtraError without matplotlib.
        """
        from kat.plots import histogram

        ends = {"the nearest": self.distances[:, :1], f"number {self.k}": self.distances[:, -1:]}
        series = {name: distances.ravel() for name, distances in ends.items()}
        return histogram(series, repr(self), f"distance ({self.metric})", "openings", axes)


@dataclass(frozen=True, eq=False, repr=False)
class Density(TableRecord):
    """`log_values` [N] float64: the logarithm of a density up to a constant. High = crowded.

    `split_half` is the reliability r of the estimate, from two disjoint halves of the data, and `noise` the variance
    σ² = (1 − r) · var(log density) that is the sample's and not the topic's; None if not measured.

    >>> vectors = np.array([[0.0], [0.1], [0.2], [5.0]])
    >>> density = kat.estimate_density(kat.find_neighbors(vectors, k=2, metric="euclidean"))
    >>> density.ids[int(np.argmin(density))], len(density)
    ('3', 4)
    """

    ids: Sequence[str]
    log_values: np.ndarray
    estimator: str
    k: int
    metric: str
    intrinsic_dimension: float
    split_half: float | None = None
    noise: float | None = None
    neighbors: Neighbors | None = None

    def __len__(self) -> int:
        return len(self.log_values)

    def _facts(self) -> Iterator[str]:
        yield number(len(self), "opening")
        yield name_of(self.estimator)
        yield f"k {self.k}"
        yield name_of(self.metric)
        yield f"dimension {self.intrinsic_dimension:.3g}"
        if self.split_half is not None:
            yield f"split-half {self.split_half:.2f}"
        yield f"log density {span(self.log_values)}"

    def _columns(self) -> Columns:
        return {"id": self.ids, "log_density": self.log_values}

    def _values(self) -> np.ndarray:
        return self.log_values

    def _some(self, rows: Rows) -> Density:
        """Without the neighbours, which are those of all rows."""
        return replace(self, ids=some_of(self.ids, rows), log_values=self.log_values[rows], neighbors=None)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw how often each log density occurs; return matplotlib's axes. High = crowded.

        Raises InputError if there are none, MissingExtraError without matplotlib.
        """
        from kat.plots import histogram

        return histogram({"log density": self.log_values}, repr(self), "log density", "openings", axes)
