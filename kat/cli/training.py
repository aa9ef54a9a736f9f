"""The commands that train and reward. Functions here only name options and call a stage of kat/stages."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from kat.cli.runner import quoted
from kat.config import ComputeOptions, ReadOptions, RunOptions
from kat.grpo_config import AnswerOptions, GrpoOptions
from kat.parameters import output
from kat.training_config import DpoOptions, RewardOptions, ScoreOptions


def train_rm(
    run: Annotated[Path, Parameter(help="A folder with pair_weights.parquet (kat weigh-pairs).")],
    *,
    out: Annotated[Path | None, output("Folder to write [default: RUN/rm, or RUN/rm.uniform].")] = None,
    pair_weights: Annotated[
        str | None, Parameter(help="Another file of kat weigh-pairs, or uniform: the same split, all weights 1.")
    ] = None,
    reward: RewardOptions = RewardOptions(),
    run_options: ComputeOptions = ComputeOptions(),
) -> None:
    """Train a reward model on weighed pairs, every prompt's trunk computed once, and measure it on the others."""
    from kat.stages.train_rm import train_rm as train

    _say_evaluation(train(run, out, pair_weights, reward, run_options), run, pair_weights)


def train_dpo(
    run: Annotated[Path, Parameter(help="A folder with pair_weights.parquet (kat weigh-pairs).")],
    *,
    out: Annotated[Path | None, output("Folder to write [default: RUN/dpo, or RUN/dpo.uniform].")] = None,
    pair_weights: Annotated[
        str | None, Parameter(help="Another file of kat weigh-pairs, or uniform: the same split, all weights 1.")
    ] = None,
    dpo: DpoOptions = DpoOptions(),
    run_options: ComputeOptions = ComputeOptions(),
) -> None:
    """Train a policy by DPO on weighed pairs, every prompt's trunk computed once, and measure it on the others."""
    from kat.stages.train_dpo import train_dpo as train

    _say_evaluation(train(run, out, pair_weights, dpo, run_options), run, pair_weights)


def _say_evaluation(written: Path, run: Path, pair_weights: str | None) -> None:
    """Say how to evaluate a model on the pairs that validated, if there are any."""
    from kat.run_folder import VALIDATION_SCORES, RunFolder
    from kat.stages.stage import say_next

    scores = written / VALIDATION_SCORES
    if scores.is_file():
        table = RunFolder(run if pair_weights in (None, "uniform") else Path(pair_weights)).pair_weights()
        say_next(f"kat evaluate-rm {quoted(scores)} --pair_weights {quoted(table)}")
        weighted = written.with_name(written.name.removesuffix(".uniform")) / VALIDATION_SCORES
        if pair_weights == "uniform" and weighted != scores and weighted.is_file():
            both = f"{quoted(weighted)} {quoted(scores)} --pair_weights {quoted(table)}"
            say_next(f"what weights did: kat evaluate-rm {both} --out {quoted(run / 'comparison')}")


def train_grpo(
    run: Annotated[Path, Parameter(help="A folder with pair_weights.parquet (kat weigh-pairs).")],
    *,
    reward: Annotated[list[str], Parameter(help="A reward model, or module:function; given several times, the sum.")],
    reward_weights: Annotated[
        list[float] | None, Parameter(help="What each reward is multiplied with [default: 1].")
    ] = None,
    out: Annotated[Path | None, output("Folder to write [default: RUN/grpo, or RUN/grpo.uniform].")] = None,
    draw: Annotated[Literal["density", "uniform"], Parameter(help="What openings are drawn by.")] = "density",
    blend: Annotated[
        float | None,
        Parameter(help="Share of density in a draw, 1 for density alone [default: that of the pair weights]."),
    ] = None,
    grpo: GrpoOptions = GrpoOptions(),
    run_options: ComputeOptions = ComputeOptions(),
) -> None:
    """Train a policy by GRPO on prompts drawn by density weight, every prompt read once for all its completions."""
    from kat.run_folder import ANSWERS
    from kat.stages.stage import say_next
    from kat.stages.train_grpo import train_grpo as train

    scales = reward_weights or None
    written = train(run, reward, out, grpo, run_options, uniform=draw == "uniform", blend=blend, reward_weights=scales)
    say_next(f"read what it says, before and after: {quoted(written / ANSWERS)}")


def evaluate_policy(
    policy: Annotated[str, Parameter(help="A folder of kat train-dpo or kat train-grpo, or any other policy.")],
    run: Annotated[Path, Parameter(help="A folder with pair_weights.parquet (kat weigh-pairs).")],
    *,
    reward: Annotated[list[str], Parameter(help="A reward model, or module:function; given several times, the sum.")],
    reward_weights: Annotated[
        list[float] | None, Parameter(help="What each reward is multiplied with [default: 1].")
    ] = None,
    against: Annotated[
        str | None, Parameter(help="The policy to compare with [default: what POLICY was trained from].")
    ] = None,
    out: Annotated[Path | None, output("Folder to write [default: RUN/POLICY.policy].")] = None,
    answers: AnswerOptions = AnswerOptions(),
    run_options: ComputeOptions = ComputeOptions(),
) -> None:
    """Let a policy and its reference answer prompts that validate: how often it wins, and KL, by density bin."""
    from kat.run_folder import WINS
    from kat.stages.evaluate_policy import evaluate_policy as evaluate
    from kat.stages.stage import say_next

    told: dict[str, Any] = {"against": against, "reward_weights": reward_weights or None, "run_options": run_options}
    written = evaluate(policy, run, reward, out, answers, **told)
    say_next(f"compare two policies: kat evaluate-rm {quoted(written / WINS)} OTHER/{WINS}")


def score(
    model: Annotated[
        str,
        Parameter(help="A reward model: a folder of kat train-rm, or any other source; or a policy of kat train-dpo."),
    ],
    pairs: Annotated[list[Path], Parameter(help="A run with pair weights, pairs as for kat run, or completions.")],
    *,
    out: Annotated[Path, output("JSON lines to write, a row a pair.")],
    score: ScoreOptions = ScoreOptions(),
    reading: ReadOptions = ReadOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Reward both completions of every pair, as kat evaluate-rm reads it; or completions of prompts.

    A policy's reward is how much likelier than its reference it makes a completion.
    """
    from kat.stages.score import score as reward
    from kat.stages.score import weighed_in
    from kat.stages.stage import say_next

    if reward(model, pairs, out, score, run_options, reading=reading):
        table = weighed_in(pairs)
        say_next(f"kat evaluate-rm {quoted(out)}" + (f" --pair_weights {quoted(table)}" if table is not None else ""))
