"""The command table of `kat`. Functions here only name options; kat/pipeline.py does the work."""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.config import Toml

from kat import __version__
from kat.config import DensityOptions, EmbedOptions, ReadOptions
from kat.errors import KatError, MismatchError, OptionError

PairsFile = Annotated[Path, Parameter(help="Preference pairs: .jsonl, .jsonl.gz, .jsonl.zst or .parquet.")]
PromptsPath = Annotated[Path | None, Parameter(help="The file that was embedded [default: the one the folder names].")]

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
    read: ReadOptions = ReadOptions(),
) -> None:
    """Pairs to weights: prefixes, embed and density, each skipped where it is already done."""
    from kat import pipeline

    pipeline.run(pairs, out, embed, density, read)
    print(f"next      prove that it is whole: kat verify {out}")


@app.command
def prefixes(
    pairs: PairsFile,
    *,
    out: Annotated[Path, Parameter(help="The prefixes file to write.")],
    read: ReadOptions = ReadOptions(),
) -> None:
    """Pairs to one prefix for each distinct opening (first user message)."""
    from kat import pipeline

    pipeline.make_prefixes(pairs, out, read)
    print(f"next      kat embed {out} --out {out.with_name('embeddings')}")


@app.command
def embed(
    data: Annotated[Path, Parameter(help="JSON lines with an id and either a prefix or a prompt.")],
    *,
    out: Annotated[Path, Parameter(help="A folder to write, or one file NAME.pt.")],
    embed: EmbedOptions = EmbedOptions(),
    read: ReadOptions = ReadOptions(),
) -> None:
    """Prefixes or prompts to unit vectors."""
    from kat import pipeline

    write = pipeline.embed_file if out.suffix == ".pt" else pipeline.embed_folder
    write(data, out, embed, read)
    print(f"next      kat density {out} --out {out.with_name('density')}")


@app.command
def density(
    embeddings: Annotated[Path, Parameter(help="A folder of `kat embed`, or its .pt file.")],
    *,
    out: Annotated[Path, Parameter(help="Folder for the weights.")],
    prompts_path: PromptsPath = None,
    density: DensityOptions = DensityOptions(),
    overwrite: Annotated[bool, Parameter(help="Replace an output made otherwise.", negative="")] = False,
) -> None:
    """Vectors to k-NN density and weights: rare weighs more."""
    from kat import pipeline

    pipeline.weigh_folder(embeddings, out, density, ReadOptions(overwrite=overwrite), prompts_path)
    print(f"next      prove that it is whole: kat verify {out}")


@app.command
def verify(
    folder: Annotated[Path, Parameter(help="A folder of `kat run`, `kat density` or `kat embed`.")],
    *,
    prompts_path: PromptsPath = None,
) -> None:
    """Prove that a folder is whole. Exit 1 names the first wrong row; exit 2 if it is no such folder."""
    from kat.verify import verify as check

    try:
        print("\n".join(check(folder, prompts_path)))
    except MismatchError as error:
        print(f"kat: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    print("whole")


@app.command
def demo_data(
    *,
    out: Annotated[Path, Parameter(help="The pairs file to write.")],
    pairs: Annotated[int, Parameter(help="Pairs to make.")] = 4000,
    seed: Annotated[int, Parameter(help="Of the draw; same seed, same file.")] = 0,
    overwrite: Annotated[bool, Parameter(help="Replace a file made otherwise.", negative="")] = False,
) -> None:
    """Preference pairs from a small grammar: 40 topics of very different sizes, the topic of every pair known."""
    from kat import pipeline

    pipeline.write_demo(out, pairs, seed, overwrite)
    print(f"next      kat run {out} --out {out.with_name('run')}")


@app.command
def demo_check(
    pairs: Annotated[Path, Parameter(help="The file of `kat demo-data`.")],
    run: Annotated[Path, Parameter(help="The folder of `kat run`.")],
) -> None:
    """Show how far weights recover the rarity of the demo's topics; exit 1 if they do not."""
    from kat.reports.demo import check_demo

    lines, recovered = check_demo(pairs, run)
    print("\n".join(lines))
    if not recovered:
        raise SystemExit(1)


def main(argv: Sequence[str] | None = None) -> None:
    """The `kat` command."""
    guarded(app, list(sys.argv[1:] if argv is None else argv), tables=True)


def guarded(command: App, tokens: list[str], *, tables: bool) -> None:
    """Run a command: deliberate errors are one message on stderr and exit 2, Ctrl-C is 130, a closed pipe is quiet.

    `tables` says whether a TOML file's tables are named by the command's own subcommands, or by the command itself.
    """
    warnings.showwarning = _show_warning
    try:
        tokens = _take_config(command, tokens, tables=tables)
        command(tokens)
        sys.stdout.flush()
    except KatError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted; nothing half-written is left under a final name", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except OSError as error:
        _fail(f"{error.filename or 'A file'}: {error.strerror or error}", 2)
    except MemoryError:
        _fail("out of memory; a smaller --batch_size or --max_tokens needs less", 2)


def _fail(message: str, status: int) -> None:
    print(f"kat: {message}", file=sys.stderr)
    raise SystemExit(status) from None


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"kat: note: {message}", file=sys.stderr)


def _take_config(command: App, tokens: list[str], *, tables: bool) -> list[str]:
    """Take `--config FILE` (or --config=FILE) out of the tokens and attach it; flags win over the file."""
    for i, token in enumerate(tokens):
        if token == "--config" or token.startswith("--config="):
            used = 1 if "=" in token else 2
            if i + used > len(tokens):
                raise OptionError("--config needs the path of a TOML file.")
            path = Path(token.partition("=")[2] or tokens[i + 1])
            _check_config(path)
            root = () if tables else (command.name[0],)
            command.config = Toml(path, must_exist=True, root_keys=root, use_commands_as_keys=tables)
            return tokens[:i] + tokens[i + used :]
    return tokens


def _check_config(path: Path) -> None:
    """Every top-level key must be the table of a command: one that nothing reads is a mistake."""
    import tomllib

    from kat.doors import DOORS

    known = {*(n for n in app if not n.startswith("-")), *DOORS}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"--config {path} cannot be read: {error}") from error
    for key, value in found.items():
        if not isinstance(value, dict) or key not in known:
            raise OptionError(f"{path}: [{key}] is no table of a command; expected {', '.join(sorted(known))}.")


if __name__ == "__main__":
    main()
