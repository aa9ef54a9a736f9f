"""The command table of `kat`. Functions here only name options; kat/pipeline.py does the work."""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict

from kat import __version__
from kat.config import DensityOptions, EmbedOptions, PairOptions, RunOptions, whole, whole_or_all
from kat.errors import KatError, MismatchError, OptionError

PairsFile = Annotated[Path, Parameter(help="Preference pairs: .jsonl, .jsonl.gz, .jsonl.zst or .parquet.")]
PromptsPath = Annotated[Path | None, Parameter(help="The file that was embedded [default: the one the folder names].")]
WholeOrAll = Annotated[int | Literal["all"], whole_or_all('Pairs that may lack a reward, or "all".')]
Overwrite = Annotated[bool, Parameter(help="Replace an output made otherwise.", negative="")]

app = App(
    name="kat",
    version=__version__,
    help="Density-aware preference training: measure how crowded every prompt is and let rare prompts count.\n\n"
    "Start with: kat run PAIRS --out RUN. Any option can stand in a TOML file, under [run] and so on: --config FILE.",
)


@app.command
def run(
    pairs: PairsFile,
    *,
    out: Annotated[Path, Parameter(help="Folder for everything that is made.")],
    embed: EmbedOptions = EmbedOptions(),
    density: DensityOptions = DensityOptions(),
    how: RunOptions = RunOptions(),
) -> None:
    """Pairs to weights: prefixes, embed and density, each skipped where it is already done."""
    from kat.stages import pipeline

    pipeline.run(pairs, out, embed, density, how)
    print(f"next      prove that it is whole: kat verify {out}")


@app.command
def prefixes(
    pairs: PairsFile,
    *,
    out: Annotated[Path, Parameter(help="The prefixes file to write.")],
    how: RunOptions = RunOptions(),
) -> None:
    """Pairs to one prefix for each distinct opening (first user message)."""
    from kat.stages import pipeline

    pipeline.make_prefixes(pairs, out, how)
    print(f"next      kat embed {out} --out {out.with_name('embeddings')}")


@app.command
def embed(
    data: Annotated[Path, Parameter(help="JSON lines with an id and either a prefix or a prompt.")],
    *,
    out: Annotated[Path, Parameter(help="A folder to write, or one file NAME.pt.")],
    embed: EmbedOptions = EmbedOptions(),
    how: RunOptions = RunOptions(),
) -> None:
    """Prefixes or prompts to unit vectors."""
    from kat.stages import pipeline

    write = pipeline.embed_file if out.suffix == ".pt" else pipeline.embed_folder
    write(data, out, embed, how)
    print(f"next      kat density {out} --out {out.with_name('density')}")


@app.command
def density(
    embeddings: Annotated[
        Path, Parameter(help="A folder of `kat embed`, or its .pt file; with --explain, of weights.")
    ],
    *,
    out: Annotated[Path | None, Parameter(help="Folder for the weights.")] = None,
    explain: Annotated[str | None, Parameter(help="Say why the opening of this id weighs what it weighs.")] = None,
    prompts_path: PromptsPath = None,
    density: DensityOptions = DensityOptions(),
    how: RunOptions = RunOptions(),
) -> None:
    """Vectors to k-NN density and weights: rare weighs more."""
    from kat.stages import pipeline

    if out is None and explain is None:
        raise OptionError("kat density needs --out DIR for the weights it makes, or --explain ID for those it reads.")
    if out is not None:
        pipeline.weigh_folder(embeddings, out, density, how, prompts_path)
    if explain is not None:
        print("\n".join(pipeline.explain(out or embeddings, explain)))
    else:
        print(f"next      prove that it is whole: kat verify {out}")


@app.command
def sample(
    folder: Annotated[Path, Parameter(help="A folder of weights.")],
    *,
    budget: Annotated[int, whole("Openings to draw, N at most.")],
    out: Annotated[Path, Parameter(help="Text file for the ids, one a line.")],
    seed: Annotated[int, whole("Of the draw; same seed, same draw.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw openings in proportion to weight, without replacement, and say how likely each was."""
    from kat.stages import pipeline

    pipeline.sample_folder(folder, out, budget, seed, overwrite)


@app.command
def weigh_pairs(
    run: Annotated[Path, Parameter(help="A folder of `kat run`, or of weights.")],
    *,
    out: Annotated[
        Path | None, Parameter(help="The .parquet file to write [default: RUN/pair_weights.parquet].")
    ] = None,
    pairs_path: Annotated[Path | None, Parameter(help="The pairs [default: those that the run was made from].")] = None,
    pairs: PairOptions = PairOptions(),
    how: RunOptions = RunOptions(),
) -> None:
    """Weights of openings to one weight a pair, for any trainer, with a split that near-duplicates do not cross."""
    from kat.stages import weigh_pairs as weighing

    made = weighing.weigh_pairs(run, out, pairs_path, pairs, how)
    print(f"next      kat export-weights {made} --to trl --out {made.with_name('trl')}")


@app.command
def export_weights(
    run: Annotated[Path, Parameter(help="A folder with pair_weights.parquet, or such a file.")],
    *,
    to: Annotated[Literal["trl", "openrlhf", "verl", "parquet", "jsonl"], Parameter(help="Whose shape.")],
    out: Annotated[Path, Parameter(help="Folder to write.")],
    pairs_path: Annotated[Path | None, Parameter(help="The pairs [default: those that were weighed].")] = None,
    seed: Annotated[int, whole("Of weighted passes that are drawn beforehand.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Pairs with their weights in the shape that a trainer reads."""
    from kat.stages import export_weights as exporting

    exporting.export_weights(run, to, out, pairs_path, seed, overwrite)


@app.command
def models() -> None:
    """What models are here: bundled ones, and nanochat's checkpoints with age, dimension and step."""
    from kat.config import base_directory
    from kat.models.catalog import found_models, model_lines

    print("\n".join(model_lines(found_models())))
    print(f"  nanochat's checkpoints are looked for in {base_directory()}; any local directory does as well.")


@app.command
def export(
    source: Annotated[str, Parameter(help="A model's name: see kat models.")],
    out: Annotated[Path, Parameter(help="Folder to write.")],
    *,
    allow_network: Annotated[bool, Parameter(help="Let a hub name be downloaded.", negative="")] = False,
    overwrite: Overwrite = False,
) -> None:
    """A model of any source as a Hugging Face folder with safetensors and tokenizer."""
    from kat.stages import export_weights as exporting

    exporting.export_model(source, out, allow_network, overwrite)


@app.command
def evaluate_rm(
    scores: Annotated[list[Path], Parameter(help="One file of rewards, or two to compare: first minus second.")],
    /,
    *,
    out: Annotated[
        Path | None, Parameter(help="Folder for evaluation.json and evaluation.png [default: SCORES.evaluation].")
    ] = None,
    pair_weights: Annotated[
        Path | None, Parameter(help="The file of `kat weigh-pairs`: openings, density bins, lengths.")
    ] = None,
    split: Annotated[Literal["validation", "train", "all"], Parameter(help="Which of its pairs.")] = "validation",
    missing_scores: WholeOrAll = 0,
    replicates: Annotated[int, whole("Of the bootstrap.")] = 2000,
    seed: Annotated[int, whole("Of the bootstrap and the sign flips.")] = 0,
    how: RunOptions = RunOptions(),
) -> None:
    """Judge a reward model by density bin, with intervals over openings; or compare two on the same pairs."""
    from kat.stages import evaluate_rm as appraisal

    out = out or appraisal.default_out(scores)
    appraisal.evaluate_scores(scores, out, pair_weights, split, missing_scores, replicates, seed, how)
    print(f"next      look at {out / 'evaluation.png'}; every number is in {out / 'evaluation.json'}")


@app.command
def verify(
    folder: Annotated[Path, Parameter(help="A folder of `kat run`, `kat density` or `kat embed`.")],
    *,
    prompts_path: PromptsPath = None,
) -> None:
    """Prove that a folder is whole. Exit 1 names the first wrong row; exit 2 if it is no such folder."""
    from kat.stages.verify import verify as check

    try:
        print("\n".join(check(folder, prompts_path)))
    except MismatchError as error:
        print(f"kat: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print("whole")


@app.command
def selftest(
    *,
    n: Annotated[int, whole("Rows; choose about as many as your openings.")] = 5000,
    d: Annotated[int, whole("Intrinsic dimension of the data drawn.")] = 8,
    k: Annotated[int, whole("Neighbours.")] = 20,
    seed: Annotated[int, whole("Of the draw.")] = 0,
) -> None:
    """Show that densities of known truth are recovered and that noise gets nearly uniform weights; else exit 1."""
    from kat.density.selftest import selftest as trials_of
    from kat.reports.console.density import trial_lines

    trials = trials_of(n, d, k, seed)
    print("\n".join(trial_lines(trials)))
    if not all(trial.passed for trial in trials):
        raise SystemExit(1)


@app.command
def demo_data(
    *,
    out: Annotated[Path, Parameter(help="The pairs file to write.")],
    pairs: Annotated[int, whole("Pairs to make.")] = 4000,
    seed: Annotated[int, whole("Of the draw; same seed, same file.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Preference pairs from a small grammar: 40 topics of very different sizes, the topic of every pair known."""
    from kat.stages import pipeline

    pipeline.write_demo(out, pairs, seed, overwrite)
    print(f"next      kat run {out} --out {out.with_name('run')}")


@app.command
def demo_check(
    pairs: Annotated[Path, Parameter(help="The file of `kat demo-data`.")],
    run: Annotated[Path, Parameter(help="The folder of `kat run`.")],
) -> None:
    """Show how far weights recover the rarity of the demo's topics; exit 1 if they do not."""
    from kat.demo.check import check_demo
    from kat.reports.console.demo_check import demo_check_lines

    check = check_demo(pairs, run)
    print("\n".join([*demo_check_lines(check), f"results: {run}"]))
    if not check.recovered:
        raise SystemExit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """The `kat` command."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    if tokens:
        tokens[0] = _command_name(tokens[0], app)
    guarded(app, tokens, tables=True)


def guarded(command: App, tokens: list[str], *, tables: bool) -> None:
    """Run a command: deliberate errors are one message on stderr and exit 2, Ctrl-C is 130, a closed pipe is quiet.

    `tables` says whether a TOML file's tables are named by the command's own subcommands, or by the command itself.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show an arrow gets a question mark
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            tokens = _take_config(command, tokens, tables=tables)
            command.suppress_keyboard_interrupt = False
            command(tokens, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (KatError, CycloptsError) as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted; nothing half-written is left under a final name, and the same command goes on", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}", 2)
    except MemoryError:
        _fail("out of memory; a smaller --batch_size or --max_tokens needs less", 2)
    finally:
        command.config = ()


def _fail(message: str, status: int) -> None:
    # What a file holds may stand in a message: no control character of it reaches the terminal.
    clean = "".join(c if c.isprintable() or c == "\n" else "�" for c in message)
    print(f"kat: {clean}", file=sys.stderr)
    raise SystemExit(status) from None


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"kat: note: {message}", file=sys.stderr)


def _command_name(word: str, command: App) -> str:
    """Underscores and dashes are alike in a command's name too."""
    dashed = word.replace("_", "-")
    return dashed if dashed in command and not word.startswith("-") else word


def _take_config(command: App, tokens: list[str], *, tables: bool) -> list[str]:
    """Take `--config FILE` (or --config=FILE) out of the tokens and attach it; flags win over the file."""
    for i, token in enumerate(tokens):
        if token == "--config" or token.startswith("--config="):
            used = 1 if "=" in token else 2
            if i + used > len(tokens):
                raise OptionError("--config needs the path of a TOML file.")
            path = token.partition("=")[2] or tokens[i + 1]
            root = () if tables else (command.name[0],)
            command.config = Dict(read_config(Path(path)), root_keys=root, use_commands_as_keys=tables, source=path)
            return tokens[:i] + tokens[i + used :]
    return tokens


def read_config(path: Path) -> dict[str, dict]:
    """A TOML file's tables by command. Every top-level key must be one: what nothing reads is a mistake."""
    import tomllib

    from kat.cli.scripts import DOORS

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"--config {path} cannot be read: {error}") from error
    known = {*(n for n in app if not n.startswith("-")), *DOORS}
    tables = {}
    for key, value in found.items():
        name = key if key in DOORS else key.replace("_", "-")
        if not isinstance(value, dict) or name not in known:
            raise OptionError(f"{path}: [{key}] is no table of a command; expected {', '.join(sorted(known))}.")
        tables[name] = value
    return tables


if __name__ == "__main__":
    main()
