"""The models: what weightings would do, how training went, accuracy by density bin, and what a policy says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kat.records import OPENING, Unit
from kat.reports.blocks import Block, Chart, Column, Commands, Format, Note, Quotes, Section, Series, Table, Text
from kat.reports.evaluation_parts import SOURCES, bin_name
from kat.reports.sections.accuracy import accuracy_chart, difference_tables, evaluation_table
from kat.reports.sections.parts import QUOTE, clipped, columns
from kat.reports.sections.tried import tried_blocks

SAMPLES = 6
"""Fixed prompts of which the completions before and after are shown."""
MOVING, CURVE = 9, 300
"""Steps of a moving mean, where a log is long enough for one, and points of a curve at most."""

_CURVES: tuple[tuple[str, str, str, Format], ...] = (
    ("loss", "Loss of the {}", "loss", "number"),
    ("accuracy", "Accuracy of the {} on the pairs of a step", "accuracy", "percent"),
    ("validation", "Accuracy of the {} on the validation pairs", "validation_accuracy", "percent"),
)
"""File, title, key of the log and format of what is shown of models that are trained on pairs."""


@dataclass(frozen=True)
class Training:
    """A trained model: its name, `report` (training.json), `log` (the rows of training_log.jsonl), and `answers` (the
    rows of a policy's completions.jsonl)."""

    name: str
    report: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]] = ()
    answers: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Evaluated:
    """An evaluation (evaluation.json) under a name. Its `files` are named by the models whose rewards they hold, where
    these are known: a model that was trained and evaluated is shown once."""

    name: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Trained:
    """What was trained and evaluated in a run; `tried` is weightings.json, `wins` are policies against their references
    (policy.json)."""

    tried: Mapping[str, Any] | None = None
    reward_models: Sequence[Training] = ()
    policies: Sequence[Training] = ()
    dpo_policies: Sequence[Training] = ()
    wins: Sequence[Evaluated] = ()
    evaluations: Sequence[Evaluated] = ()
    todo: Sequence[str] = field(default=())
    """Commands that make what is missing, said where nothing was trained."""
    unit: Unit = OPENING

    @property
    def any(self) -> bool:
        """Whether a model was trained."""
        return bool(self.reward_models or self.policies or self.dpo_policies)

    @property
    def on_pairs(self) -> list[Training]:
        """The models that were trained on pairs, and have an accuracy on those that validate."""
        return [*self.reward_models, *self.dpo_policies]


def models(trained: Trained) -> Section:
    """Show what was trained and evaluated, or how to."""
    blocks: list[Block] = []
    if trained.tried is not None:
        blocks += tried_blocks(trained.tried)
    blocks += _learning(trained.reward_models, "reward model", "rm")
    blocks += _learning(trained.dpo_policies, "DPO policy", "dpo")
    blocks += _accuracy(trained)
    for number, policy in enumerate(trained.policies):
        blocks += _policy(policy, f"policy_{number}")
    if trained.wins:
        blocks.append(_wins(trained.wins))
    if not (trained.any or trained.evaluations or trained.wins):
        blocks.append(Note("No model was trained or evaluated in this run yet."))
        if trained.todo:
            blocks.append(Commands("Train and evaluate one", trained.todo))
    return Section("models", "Models", blocks)


def _learning(trainings: Sequence[Training], kind: str, stem: str) -> list[Block]:
    """Loss and accuracy by step of all models of a kind, and how each training went."""
    several = f"{kind.removesuffix('y')}ies" if kind.endswith("y") else f"{kind}s"
    curves = [
        curve_chart(f"{stem}_{name}", title.format(several), key, trainings, format=form)
        for name, title, key, form in _CURVES
    ]
    blocks: list[Block] = [chart for chart in curves if chart is not None]
    if trainings:
        head = columns(
            {
                kind: "text",
                "weights": "text",
                "pairs that train": "count",
                "ESS of pairs": "percent",
                "steps": "count",
                "seconds": "seconds",
                "pairs left out": "count",
                "prompts cut": "count",
            }
        )
        title = f"{several[0].upper()}{several[1:]}, as trained"
        blocks.append(Table(title, head, [_training_row(one) for one in trainings]))
    return blocks


def _training_row(one: Training) -> tuple[Any, ...]:
    report, training = one.report, one.report["training"]
    dropped = sum(n for bins in report["dropped_by_bin"].values() for n in bins.values())
    share = report["ess_pairs"] / report["train_pairs"]
    facts = (one.name, str(report.get("weights", "")), report["train_pairs"], share, training["steps"])
    return (*facts, training["seconds"], dropped, report["prompts_cut"])


def curve_chart(
    name: str, title: str, key: str, trainings: Sequence[Training], *, format: Format = "number"
) -> Chart | None:
    """Return a chart of one number of training logs by step; of long ones a moving mean. None if no log has it."""
    series = []
    windows = set()
    for one in trainings:
        rows = [(row["step"], row[key]) for row in one.log if row.get(key) is not None]
        if not rows:
            continue
        steps, values = np.asarray(rows, np.float64).T
        if len(values) >= 4 * MOVING:
            windows.add(window := max(MOVING, len(values) // CURVE))
            values = moving_mean(values, window)
        shown = np.unique(np.linspace(0, len(values) - 1, CURVE).round().astype(np.int64))
        series.append(Series(one.name, steps[shown], values[shown]))
    if not series:
        return None
    told = "; ".join(
        f"{s.name}: {_shown(s.y[0], format)} at first, {_shown(s.y[-1], format)} at the end" for s in series
    )
    told += f". Means of {' and '.join(map(str, sorted(windows)))} steps." if windows else "."
    y_label = key.replace("_", " ")
    return Chart(name, title, "lines", x_label="step", y_label=y_label, series=series, told=told, format=format)


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of `window` values around each, of fewer at either end."""
    ones = np.ones(window)
    return np.asarray(np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same"))


def _shown(value: float, format: Format) -> str:
    return f"{value:.1%}" if format == "percent" else f"{value:.3g}"


def _accuracy(trained: Trained) -> list[Block]:
    """Accuracy by density bin: of the validation pairs as trained, and of every evaluation; several side by side."""
    by_name = {one.name: one.report["validation"] for one in trained.on_pairs if one.report.get("validation")}
    blocks: list[Block] = []
    for one in trained.evaluations:
        split = one.facts.get("split")
        of = "" if split in (None, "validation") else f" ({split} pairs)"
        named = [f"{name}{of}" for name in one.facts["files"]]
        # An evaluation says more than the training's own: it takes the place of one of the same name.
        by_name |= dict(zip(named, one.facts["evaluations"], strict=True))
    if by_name:
        blocks += [accuracy_chart(by_name, trained.unit), evaluation_table(by_name, trained.unit)]
        more = max((len(one["sources"]) for one in by_name.values()), default=0) - SOURCES
        if more > 0:
            blocks.append(Text(f"{more:,} more sources are in evaluation.json."))
    elif trained.on_pairs:
        blocks.append(Note("There are no validation pairs, so nothing can be said of accuracy."))
    for one in trained.evaluations:
        blocks += difference_tables(one.name, one.facts, trained.unit)
    return blocks


def _policy(policy: Training, stem: str) -> list[Block]:
    """Reward, KL, variety and length of a policy by step, its trend, the bins, and what it says."""
    report = policy.report
    blocks: list[Block] = [Text(f"{policy.name}: {trend_told(report['trend'])}")]
    kinds: tuple[tuple[str, str, Format], ...] = (
        ("reward", "Reward", "number"),
        ("kl", "KL from the first policy, a token", "number"),
        ("distinct_2", "Variety: distinct pairs of tokens", "percent"),
        ("length", "Length of completions, tokens", "number"),
    )
    for key, title, kind in kinds:
        chart = curve_chart(f"{stem}_{key}", f"{title}: {policy.name}", key, [policy], format=kind)
        if chart is not None:
            blocks.append(chart)
    blocks += _drawn(policy)
    if len(report["answers"]) > 1:
        names = ("step", "answers", "reward", "kl", "tokens", "ended")
        formats: tuple[Format, ...] = ("count", "count", "number", "number", "number", "percent")
        rows = [tuple(one[name] for name in names) for one in report["answers"]]
        head = tuple(Column(name, kind) for name, kind in zip(names, formats, strict=True))
        blocks.append(Table(f"Fixed prompts, by step: {policy.name}", head, rows))
    return [*blocks, *_samples(policy)]


def _wins(evaluations: Sequence[Evaluated]) -> Table:
    """How often each policy's completions win over its reference's, and how far it is from it, in all and by bin."""
    head = columns(
        {
            "evaluation": "text",
            "prompts of": "text",
            "prompts": "count",
            "win rate": "percent",
            "win rate from": "percent",
            "to": "percent",
            "reward gain": "number",
            "KL a token": "number",
        }
    )
    rows = []
    for one in evaluations:
        parts = {"every bin": one.facts["all"]} | {bin_name(b): part for b, part in one.facts["bins"].items()}
        for name, part in parts.items():
            rate = part["win_rate"]
            low, high = rate.get("interval") or (None, None)
            told = (one.name, name, part["prompts"], rate["value"], low, high)
            rows.append((*told, part["reward_gain"]["value"], part["kl"]["value"]))
    return Table("Policies against their references, under a reward", head, rows)


def trend_told(trend: Mapping[str, Any] | None) -> str:
    """Say whether the reward rose."""
    if trend is None:
        return "too few steps to say whether the reward rose."
    low, high = trend["interval"]
    verdict = "it rose" if low > 0 else "it fell" if high < 0 else "did not learn: the interval holds 0"
    return f"reward, last less first {trend['value']:+.4f} [{low:+.4f}, {high:+.4f}]; {verdict}."


def _drawn(policy: Training) -> list[Block]:
    """Groups drawn, dropped and trained on by density bin."""
    counts = policy.report["training"]["by_bin"]
    bins = sorted({b for kind in counts.values() for b in kind}, key=int)
    if bins in ([], ["-1"]):
        return []
    kinds = ("drawn", "dropped", "trained", "loss_tokens")
    titles = ("drawn", "dropped", "trained", "tokens")
    head = (Column("density bin"), *(Column(title, "count") for title in titles))
    rows = [(bin_name(b), *(counts[kind].get(b, 0) for kind in kinds)) for b in bins]
    return [Table(f"Groups by density bin: {policy.name}", head, rows)]


def _samples(policy: Training) -> list[Block]:
    """Completions of fixed prompts before and after, some of each density bin."""
    steps = sorted({row["step"] for row in policy.answers})
    if not steps:
        return []
    before, after = (
        {_key(row): row for row in policy.answers if row["step"] == step} for step in (steps[0], steps[-1])
    )
    both = [key for key in before if key in after]
    quotes = []
    for key in _of_each_bin(both, before):
        first, last = before[key], after[key]
        user = next((m["content"] or "" for m in reversed(first["prompt"]) if m["role"] == "user"), "")
        quotes.append((f"prompt ({bin_name(first['bin'])})", clipped(user, QUOTE)))
        shown = [first] if len(steps) == 1 else [first, last]
        for row in shown:
            heading = f"step {row['step']:,}, reward {row['reward']:.4f}, {row['tokens']:,} tokens"
            quotes.append((heading, clipped(row["completion"], QUOTE)))
    return [Quotes(f"Completions before and after: {policy.name}", quotes)]


def _key(row: Mapping[str, Any]) -> str:
    return str(row["id"]).rpartition("@")[0]


def _of_each_bin(keys: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The first of each bin, then the second, up to SAMPLES; the rarest bin first."""
    turn: dict[int, int] = {}
    placed = []
    for number, key in enumerate(keys):
        b = rows[key]["bin"]
        turn[b] = turn.get(b, -1) + 1
        placed.append((turn[b], b, number, key))
    return [key for *_, key in sorted(placed)[:SAMPLES]]
