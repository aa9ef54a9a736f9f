"""What was tried, trained and evaluated in a run: a part of what a report reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kat.artifacts import is_kept
from kat.reports import forms
from kat.reports.sections.models import Evaluated, Trained, Training
from kat.run_folder import (
    ANSWERS,
    EVALUATION,
    POLICY_EVALUATION,
    TRAINING,
    TRAINING_LOG,
    TRIED,
    VALIDATION_SCORES,
    RunFolder,
)
from kat.stages.report_files import read_lines, read_object

_ON_PAIRS = (TRAINING, TRAINING_LOG, VALIDATION_SCORES)
READ = {
    "train-rm": _ON_PAIRS,
    "train-dpo": _ON_PAIRS,
    "train-grpo": (TRAINING, TRAINING_LOG, ANSWERS),
    "evaluate-rm": (EVALUATION,),
    "evaluate-policy": (POLICY_EVALUATION,),
    "try-weights": (TRIED,),
}
"""The files that are read of each stage's output."""


def read_trained(run: RunFolder, names: Mapping[str, Sequence[str]]) -> Trained:
    """Return what was tried, trained and evaluated, from the outputs of a run by stage."""
    root, tried = run.root, names.get("try-weights", ())

    def trainings(stage: str) -> list[Training]:
        return [_training(root / name, name, forms.TRAINED[stage]) for name in names.get(stage, ())]

    return Trained(
        tried=read_object(root / tried[0] / TRIED, forms.TRIED) if tried else None,
        reward_models=trainings("train-rm"),
        policies=trainings("train-grpo"),
        dpo_policies=trainings("train-dpo"),
        evaluations=[_evaluated(run, name) for name in names.get("evaluate-rm", ())],
        wins=[
            Evaluated(name, read_object(root / name / POLICY_EVALUATION, forms.POLICY_EVALUATION))
            for name in names.get("evaluate-policy", ())
        ],
        unit=run.words,
    )


def scores_read(run: RunFolder, evaluation: str) -> list[Path]:
    """Return the files of rewards that an evaluation of a run was made from, in order."""
    folder = run.root / evaluation
    told = (run.manifest(folder) or {}).get("inputs_at") or {}
    names = [told[name] for name in ("scores_1", "scores_2") if isinstance(told.get(name), str)]
    return [(folder / name).resolve() for name in names]


def _evaluated(run: RunFolder, name: str) -> Evaluated:
    """An evaluation, each file of rewards under the name of the run's model that wrote it, else its own."""
    facts, root = read_object(run.root / name / EVALUATION, forms.EVALUATION), run.root.resolve()
    files = [
        path.parent.relative_to(root).as_posix() if path.name == VALIDATION_SCORES and root in path.parents else told
        for told, path in zip(facts["files"], scores_read(run, name), strict=False)
    ]
    return Evaluated(name, facts | {"files": files or facts["files"]})


def _training(folder: Path, name: str, form: forms.Form) -> Training:
    lines = ((TRAINING_LOG, forms.LOG), (ANSWERS, forms.ANSWER))
    log: list[dict[str, Any]]
    log, answers = (list(read_lines(folder / n, f)) if is_kept(folder / n, folder) else [] for n, f in lines)
    return Training(name, read_object(folder / TRAINING, form), log, answers)
