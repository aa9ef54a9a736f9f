"""The command table of `kat`. Functions here only name options and call a stage of kat/stages."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kat.cli.asking import asked_for_help, completion_app, without_help_of_nothing
from kat.cli.commands import COMMANDS, SUMMARY, answer_at_once, examples_of
from kat.cli.everywhere import FLAGS, Tables, behind_everywhere
from kat.cli.reading import PromptsPath, compare_weights, models, show_run, verify
from kat.cli.runner import LISTS, command_app, quoted, run_app, with_dashes
from kat.cli.scripts import SCRIPTS, run_origin, script_app
from kat.cli.training import evaluate_policy, score, train_dpo, train_grpo, train_rm
from kat.config import (
    DensityOptions,
    EmbedOptions,
    ExportWeightsOptions,
    Overwrite,
    ReadOptions,
    RowOptions,
    RunOptions,
    SampleOptions,
)
from kat.errors import OptionError
from kat.evidence_config import DemoOptions, EvaluateOptions, SelftestOptions
from kat.executor_config import ExecutorOptions
from kat.executors.launch import launching
from kat.pair_config import PairOptions, TryOptions
from kat.panels import OUTPUT
from kat.parameters import flag, output
from kat.report_config import ReportOptions
from kat.run_folder import RunFolder, next_to
from kat.terminal import show

PairsFiles = Annotated[
    list[Path],
    Parameter(help="Preference pairs: files of JSON, CSV, parquet or Arrow, a folder of shards, or 'a glob'."),
]

app = command_app("kat", SUMMARY)


def run(
    pairs: PairsFiles,
    *,
    out: Annotated[Path, output("Folder for everything that is made.")],
    embed: EmbedOptions = EmbedOptions(),
    density: DensityOptions = DensityOptions(),
    reading: ReadOptions = ReadOptions(),
    no_report: Annotated[bool, flag("Leave out RUN/report.html, which shows it all.", group=OUTPUT)] = False,
    executor: ExecutorOptions = ExecutorOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Pairs to weights: prefixes, embed and density, each skipped where it is already done; and a report of them."""
    from kat.run_folder import REPORT
    from kat.stages.run import run as run_stages

    if run_stages(pairs, out, embed, density, run_options, reading=reading, report=not no_report, executor=executor):
        _next(f"open {quoted(out / REPORT)} in a browser")
    _next(f"ask whether weights would help: kat try-weights {quoted(out)}")
    _next(f"weights of pairs, for any trainer: kat weigh-pairs {quoted(out)}")
    _next(f"prove that it is whole: kat verify {quoted(out)}")
    _next("weights depend on the encoder: make OTHER with another --model,")
    _next(f"then see how far they agree: kat compare-weights {quoted(out)} OTHER")


def prefixes(
    pairs: PairsFiles,
    *,
    out: Annotated[Path, output("The prefixes file to write.")],
    reading: ReadOptions = ReadOptions(),
    run_options: RowOptions = RowOptions(),
) -> None:
    """Pairs to one prefix for each distinct opening (first user message)."""
    from kat.stages.prefixes import make_prefixes

    make_prefixes(pairs, out, run_options, reading=reading)
    _next(f"kat embed {quoted(out)} --out {quoted(next_to(out, 'prefixes_all', 'embeddings'))}")


def embed(
    data: Annotated[
        list[Path],
        Parameter(help="Rows with an id and either a prefix or a prompt: files, a folder of shards, or 'a glob'."),
    ],
    *,
    out: Annotated[Path, output("A folder to write, or one file NAME.pt.")],
    embed: EmbedOptions = EmbedOptions(),
    executor: ExecutorOptions = ExecutorOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Prefixes or prompts to unit vectors."""
    from kat.stages.embed import embed as embed_texts

    with launching(executor, run_options.device) as launcher:
        embed_texts(data[0] if len(data) == 1 else data, out, embed, run_options, launcher=launcher)
    _next(f"kat density {quoted(out)} --out {quoted(next_to(out, 'embeddings', 'density'))}")


def density(
    embeddings: Annotated[
        Path, Parameter(help="A folder of `kat embed`, a .pt, .npy or .parquet file; with --explain, weights.")
    ],
    *,
    out: Annotated[Path | None, output("Folder for the weights.")] = None,
    explain: Annotated[str | None, Parameter(help="Say why the opening of this id weighs what it weighs.")] = None,
    prompts_path: PromptsPath = None,
    density: DensityOptions = DensityOptions(),
    executor: ExecutorOptions = ExecutorOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Vectors to k-NN density and weights: rare weighs more."""
    from kat.stages import density as stage

    if out is None and explain is None:
        raise OptionError("kat density needs --out DIR for the weights it makes, or --explain ID for those it reads.")
    if out is not None:
        with launching(executor, run_options.device) as launcher:
            stage.weigh_openings(embeddings, out, density, run_options, prompts_path, launcher=launcher)
    if explain is not None:
        show(*stage.explain(out or embeddings, explain))
    elif out is not None:
        _next(f"prove that it is whole: kat verify {quoted(out)}")


def sample(
    folder: Annotated[Path, Parameter(help="A folder of `kat run`, or of weights.")],
    *,
    out: Annotated[Path, output("Text file for the ids, one a line.")],
    sample: SampleOptions,
    overwrite: Overwrite = False,
) -> None:
    """Draw openings in proportion to weight, without replacement, and say how likely each was."""
    from kat.stages.sample import sample_openings

    sample_openings(folder, out, sample, overwrite)


def weigh_pairs(
    run: Annotated[Path, Parameter(help="A folder of `kat run`, or of weights.")],
    *,
    out: Annotated[Path | None, output("The .parquet file to write [default: RUN/pair_weights.parquet].")] = None,
    pairs_path: Annotated[
        list[Path] | None, Parameter(help="The pairs, once for each path [default: those that the run was made from].")
    ] = None,
    pairs: PairOptions = PairOptions(),
    reading: ReadOptions = ReadOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Weights of openings to one weight a pair, for any trainer, with a split that near-duplicates do not cross."""
    from kat.stages.weigh_pairs import weigh_pairs as weigh

    written = weigh(run, out, pairs_path, pairs, run_options, reading=reading)
    if written == RunFolder(run).pair_weights():
        _next(f"train on them here: kat train-rm {quoted(run)}, or kat train-dpo {quoted(run)}; or elsewhere:")
    _next(f"kat export-weights {quoted(written)} --to trl --out {quoted(next_to(written, 'pair_weights', 'trl'))}")


def try_weights(
    run: Annotated[Path, Parameter(help="A folder of `kat run`.")],
    *,
    out: Annotated[Path | None, output("Folder to write [default: RUN/try_weights].")] = None,
    trials: TryOptions = TryOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Ask your own pairs what each weighting would do: who gains and who pays, before anything is trained."""
    from kat.run_folder import TRIED, TRIED_FIGURE
    from kat.stages.try_weights import try_weights as ask

    written = ask(run, out, trials, run_options)
    _look_at(written / TRIED_FIGURE, written / TRIED)


def export_weights(
    run: Annotated[Path, Parameter(help="A folder with pair_weights.parquet, or such a file.")],
    *,
    out: Annotated[Path, output("Folder to write.")],
    export: ExportWeightsOptions,
    pairs_path: Annotated[
        list[Path] | None, Parameter(help="The pairs, once for each path [default: those that were weighed].")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Pairs with their weights in the format that a trainer reads."""
    from kat.stages.export_weights import export_weights as write

    write(run, out, export, pairs_path, overwrite)


def report(
    run: Annotated[Path, Parameter(help="A folder of `kat run`, or of weights.")],
    *,
    out: Annotated[Path | None, output("The .html file to write [default: RUN/report.html].")] = None,
    report: ReportOptions = ReportOptions(),
    overwrite: Overwrite = False,
) -> None:
    """One page that shows a run: map of the openings, who gains and who pays, what was wrong, what models learned."""
    from kat.stages.report import make_report

    written = make_report(run, out, report, overwrite=overwrite)
    _next(f"open {quoted(written)} in a browser")


def export(
    source: Annotated[str, Parameter(help="A model's name: see kat models.")],
    out: Annotated[Path, output("Folder to write.")],
    *,
    allow_network: Annotated[bool, flag("Let a hub name be downloaded.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """A model of any source as a Hugging Face folder with safetensors and tokenizer."""
    from kat.stages.export_model import export_model

    export_model(source, out, allow_network, overwrite)


def evaluate_rm(
    scores: Annotated[list[Path], Parameter(help="One file of rewards, or two to compare: first minus second.")],
    /,
    *,
    out: Annotated[
        Path | None,
        output("Folder for evaluation.json and evaluation.png [default: SCORES.evaluation]."),
    ] = None,
    pair_weights: Annotated[
        Path | None, Parameter(help="The file of `kat weigh-pairs`, or its run: openings, density bins, lengths.")
    ] = None,
    evaluate: EvaluateOptions = EvaluateOptions(),
    run_options: RowOptions = RowOptions(),
) -> None:
    """Evaluate a reward model by density bin, with intervals over openings; or compare two on the same pairs."""
    from kat.run_folder import EVALUATION, FIGURE, evaluation_path
    from kat.stages.evaluate_rm import evaluate_rewards

    out = out or evaluation_path(scores)
    evaluate_rewards(scores, out, pair_weights, evaluate, run_options)
    _look_at(out / FIGURE, out / EVALUATION)


def selftest(*, selftest: SelftestOptions = SelftestOptions()) -> None:
    """Show that densities of known truth are recovered and that noise gets nearly uniform weights; else exit 1."""
    from kat.stages.selftest import selftest as run_trials

    if not run_trials(selftest):
        raise SystemExit(1)


def demo_data(
    *,
    out: Annotated[Path, output("The pairs file to write.")],
    demo: DemoOptions = DemoOptions(),
    overwrite: Overwrite = False,
) -> None:
    """Preference pairs from a small grammar: 40 topics of very different sizes, the topic of every pair known."""
    from kat.stages.demo_data import write_demo

    write_demo(out, demo, overwrite)
    beside = out.parent if out.parent.name == "data" else out  # data/pairs_all.jsonl and run/ are what documents have
    _next(f"kat run {quoted(out)} --out {quoted(next_to(beside.with_name(out.name), 'pairs_all', 'run'))}")


def demo_check(
    pairs: Annotated[Path, Parameter(help="The file of `kat demo-data`.")],
    run: Annotated[Path, Parameter(help="The folder of `kat run`.")],
) -> None:
    """Show how far weights recover the rarity of the demo's topics; exit 1 if they do not."""
    from kat.stages.demo_check import demo_check as check

    if not check(pairs, run):
        raise SystemExit(1)


_FUNCTIONS: dict[str, Callable[..., None]] = {
    "run": run,
    "demo-data": demo_data,
    "demo-check": demo_check,
    "prefixes": prefixes,
    "embed": embed,
    "density": density,
    "sample": sample,
    "weigh-pairs": weigh_pairs,
    "try-weights": try_weights,
    "export-weights": export_weights,
    "train-rm": train_rm,
    "train-dpo": train_dpo,
    "train-grpo": train_grpo,
    "score": score,
    "evaluate-rm": evaluate_rm,
    "evaluate-policy": evaluate_policy,
    "report": report,
    "show": show_run,
    "compare-weights": compare_weights,
    "verify": verify,
    "models": models,
    "export": export,
    "selftest": selftest,
}

for _name in COMMANDS:
    app.command(_FUNCTIONS[_name], name=_name, help_epilogue=examples_of(_name), default_parameter=LISTS)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the `kat` command."""
    tokens = asked_for_help(list(sys.argv[1:] if argv is None else argv))
    at = behind_everywhere(tokens)
    if answer_at_once(tokens[at:] if set(tokens[:at]) <= set(FLAGS) else tokens):
        return
    if tokens[at : at + 1] == ["completion"]:
        run_app(completion_app(app), [*tokens[:at], *tokens[at + 1 :]], tables=_tables())
    elif not run_origin(tokens, tables=_tables()):
        run_app(app, without_help_of_nothing(app, with_dashes(app, tokens)), tables=_tables())


def run_script(name: str) -> None:
    """Run one of the origin's five commands with the process's arguments."""
    run_app(script_app(name), sys.argv[1:], tables=_tables(), own_table=name)


def _tables() -> Tables:
    """What a configuration file may hold: a table for each command."""
    own: Tables = {name: partial(app.__getitem__, name) for name in app if not name.startswith("-")}
    return {**own, **{name: partial(script_app, name) for name in SCRIPTS}}


def _look_at(figure: Path, numbers: Path) -> None:
    """Say where the figure is, if one was drawn, and every number."""
    _next(f"look at {figure}; every number is in {numbers}" if figure.is_file() else f"every number is in {numbers}")


def _next(text: str) -> None:
    from kat.stages.stage import say_next

    say_next(text)


if __name__ == "__main__":
    main()
