"""The five commands fixed by the project's origin, `kat origin NAME` or `python -m scripts.NAME`: their own names."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from kat.cli.everywhere import Tables, behind_everywhere
from kat.cli.runner import command_app, quoted, run_app, typed
from kat.config import (
    NOT_RECORDED,
    BatchSize,
    Boilerplate,
    DensityOptions,
    EmbedOptions,
    InsideText,
    ModelName,
    ReadOptions,
    RunOptions,
    base_directory,
    data_path,
)
from kat.errors import OptionError
from kat.executor_config import ExecutorOptions
from kat.executors.launch import launching
from kat.grpo_config import GrpoOptions
from kat.parameters import flag, integer, option
from kat.training_config import OriginOptions, RewardOptions


@Parameter(name="*")
@dataclass(frozen=True)
class _SftOptions(EmbedOptions):
    model: ModelName = "sft"
    batch_size: BatchSize = 32
    boilerplate: Boilerplate = field(default="keep", metadata=NOT_RECORDED)
    inside_text: InsideText = field(default="keep", metadata=NOT_RECORDED)


@Parameter(name="*")
@dataclass(frozen=True)
class _BaseOptions(EmbedOptions):
    model: ModelName = "base"
    batch_size: BatchSize = 16
    boilerplate: Boilerplate = field(default="keep", metadata=NOT_RECORDED)
    inside_text: InsideText = field(default="keep", metadata=NOT_RECORDED)


@Parameter(name="*")
@dataclass(frozen=True)
class _OriginReward(RewardOptions):
    model: Annotated[
        str, option("The model to start from [default: sft where it exists, else smollm2].", alias=["--ckpt-source"])
    ] = ""
    max_steps: Annotated[int | None, integer("Steps at most.")] = 1000
    long_completions: Annotated[
        Literal["error", "drop"], option("A pair with a completion over max_len - min_prompt tokens.")
    ] = "drop"


@Parameter(name="*")
@dataclass(frozen=True)
class _OriginGrpo(GrpoOptions):
    policy: Annotated[
        str, option("The model to start from [default: sft where it exists, else smollm2].", alias=["--ckpt-source"])
    ] = ""
    max_steps: Annotated[int, integer("Steps: a rollout, and the updates on it.")] = 5000
    beta: Annotated[float, option("Weight of KL from the first policy in the loss; 0 loads none.")] = 0.02
    target_kl: Annotated[float | None, option("KL a token that beta is adapted to, from --beta on.")] = 0.05
    seed: Annotated[int, integer("Of prompts and completions.")] = 1337


def _path(text: str, default: str) -> Parameter:
    return Parameter(help=f"{text} [default: data/{default} in the base directory]")


def kat_make_prefixes(
    *,
    pairs_path: Annotated[Path | None, _path("Preference pairs.", "pairs_all.jsonl")] = None,
    out: Annotated[Path | None, _path("The prefixes file to write.", "prefixes_all.jsonl")] = None,
    reading: ReadOptions = ReadOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Pairs to one prefix for each distinct opening (first user message)."""
    from kat.stages.prefixes import make_prefixes
    from kat.stages.stage import say_next

    pairs_path, out = pairs_path or data_path("pairs_all.jsonl"), out or data_path("prefixes_all.jsonl")
    make_prefixes(pairs_path, out, run_options, reading=reading)
    say_next(f"{typed('kat_compute_embeddings_offline')} --prompts_path {quoted(out)}")


def kat_embed(
    *,
    data: Annotated[Path, Parameter(help="JSON lines with an id and either a prefix or a prompt.")],
    out: Annotated[Path, Parameter(help="The .pt file to write.")],
    embed: _SftOptions = _SftOptions(),
    executor: ExecutorOptions = ExecutorOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Items to one .pt file: {"ids": [str], "emb": float32 [N, D]}."""
    from kat.stages.embed import embed_file
    from kat.stages.stage import say_next

    with launching(executor, run_options.device) as launcher:
        embed_file(data, out, embed, run_options, launcher=launcher)
    say_next(f'torch.load("{out}", weights_only=True), or: kat density {quoted(out)} --out DIR')


def kat_compute_embeddings_offline(
    *,
    prompts_path: Annotated[Path | None, _path("Prefixes or prompts.", "prefixes_all.jsonl")] = None,
    output_dir: Annotated[Path | None, _path("Folder to write.", "embeddings_offline")] = None,
    embed: _BaseOptions = _BaseOptions(),
    density: DensityOptions = DensityOptions(),
    executor: ExecutorOptions = ExecutorOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Items to embeddings.npy, density_weights.npy, ids.json and embeddings_metadata.json in one folder."""
    from kat.stages.density import compute_offline
    from kat.stages.stage import say_next

    prompts_path = prompts_path or data_path("prefixes_all.jsonl")
    output_dir = output_dir or data_path("embeddings_offline")
    with launching(executor, run_options.device) as launcher:
        compute_offline(prompts_path, output_dir, embed, density, run_options, launcher=launcher)
    say_next(f"prove that it is whole: kat verify {quoted(output_dir)}")


def kat_train_rm(
    *,
    origin: OriginOptions,
    pairs_path: Annotated[Path | None, _path("Preference pairs.", "pairs_all.jsonl")] = None,
    prompts_path: Annotated[Path | None, _path("The prefixes that were weighed.", "prefixes_all.jsonl")] = None,
    density_weights_path: Annotated[
        Path | None, _path("Weights, with ids.json beside them.", "embeddings_offline/density_weights.npy")
    ] = None,
    run: Annotated[str | None, Parameter(help="A name for the run; it is recorded.")] = None,
    device_type: Annotated[str | None, Parameter(help="As --device.")] = None,
    likert_token: Annotated[str | None, Parameter(show=False)] = None,
    likert_tokens: Annotated[str | None, Parameter(show=False)] = None,
    reward: _OriginReward = _OriginReward(),
    reading: ReadOptions = ReadOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Train a reward model; it lies where the model sources rm and rm_density find it (rm_checkpoints/…)."""
    from kat.models.sources.nanochat import FOLDERS
    from kat.stages.stage import say, say_next
    from kat.stages.train_rm import train_rm_origin

    if likert_token or likert_tokens:
        raise OptionError("--likert_token means nothing here: the reward is a head's number, no token's. Leave it out.")
    model = reward.model or _default_model()
    say("model", f"{model} (--model names another)")
    out = base_directory() / FOLDERS[origin.rm_source]
    train_rm_origin(
        pairs_path or data_path("pairs_all.jsonl"),
        prompts_path or data_path("prefixes_all.jsonl"),
        density_weights_path or data_path("embeddings_offline") / "density_weights.npy",
        out,
        replace(reward, model=model),
        origin=origin,
        run_options=run_options if device_type is None else replace(run_options, device=device_type),
        reading=reading,
        name=run,
    )
    say_next(f"kat score {origin.rm_source} PAIRS --out SCORES.jsonl, or --ckpt_source {origin.rm_source} to embed")


def _default_model() -> str:
    """Return sft where there is one, else the bundled smollm2."""
    from kat.errors import ModelError
    from kat.models.sources import resolve

    try:
        resolve("sft")
    except ModelError:
        return "smollm2"
    return "sft"


def kat_train_grpo(
    *,
    rm_source: Annotated[Literal["rm", "rm_density"], Parameter(help="The reward model of kat_train_rm.")],
    grpo_source: Annotated[
        Literal["grpo", "grpo_density"],
        Parameter(help="grpo draws openings uniformly, grpo_density in proportion to their weights."),
    ],
    use_precomputed_embeddings: Annotated[
        bool, flag("Read ids.json and density_weights.npy of --embeddings_dir; else make them.")
    ] = False,
    embeddings_dir: Annotated[Path | None, _path("Folder of weights.", "embeddings_offline")] = None,
    pairs_path: Annotated[Path | None, _path("Preference pairs.", "pairs_all.jsonl")] = None,
    prompts_path: Annotated[Path | None, _path("The prefixes that are weighed.", "prefixes_all.jsonl")] = None,
    run: Annotated[str | None, Parameter(help="A name for the run; it is recorded.")] = None,
    device_type: Annotated[str | None, Parameter(help="As --device.")] = None,
    grpo: _OriginGrpo = _OriginGrpo(),
    reading: ReadOptions = ReadOptions(),
    run_options: RunOptions = RunOptions(),
) -> None:
    """Train a policy by GRPO; it lies where the model sources grpo and grpo_density find it (grpo_checkpoints/…)."""
    from kat.models.sources.nanochat import FOLDERS
    from kat.stages.density import compute_offline
    from kat.stages.stage import say, say_next
    from kat.stages.train_grpo import train_grpo_origin

    policy = grpo.policy or _default_model()
    say("policy", f"{policy} (--policy names another)")
    density = grpo_source == "grpo_density"
    prompts = prompts_path or data_path("prefixes_all.jsonl")
    folder = embeddings_dir or data_path("embeddings_offline")
    run_options = run_options if device_type is None else replace(run_options, device=device_type)
    if density and not use_precomputed_embeddings:
        if embeddings_dir is not None:
            raise OptionError("--embeddings_dir names weights that are there: add --use_precomputed_embeddings.")
        compute_offline(prompts, folder, _BaseOptions(), DensityOptions(), run_options)
    train_grpo_origin(
        pairs_path or data_path("pairs_all.jsonl"),
        prompts,
        folder / "density_weights.npy" if density or use_precomputed_embeddings else None,
        [rm_source],
        out=base_directory() / FOLDERS[grpo_source],
        options=replace(grpo, policy=policy),
        density=density,
        run_options=run_options,
        reading=reading,
        name=run,
    )
    say_next(
        f"{grpo_source} is a model source now: kat export-model {grpo_source} --out DIR, or --ckpt_source to embed"
    )


SCRIPTS = {
    script.__name__: script
    for script in (kat_make_prefixes, kat_embed, kat_compute_embeddings_offline, kat_train_rm, kat_train_grpo)
}


def script_app(name: str) -> App:
    """Return one of the five as a command."""
    app = command_app(name, SCRIPTS[name].__doc__)
    app.default(SCRIPTS[name])
    return app


def origin_app() -> App:
    """Return what lists the five: `kat origin` without the name of one."""
    app = command_app(
        "kat origin",
        "The five commands of the project's origin, with the names, options and files they have there.\n\n"
        "The same as python -m scripts.NAME, also where another package is called scripts.",
    )
    for name, script in SCRIPTS.items():
        app.command(script, name=name)
    return app


def run_origin(tokens: list[str], *, tables: Tables) -> bool:
    """Run `kat origin`: the one of the five that is named, as `python -m scripts.NAME` does, or the list of them.

    `origin` is no command of `kat`'s table, where every command is a stage. Returns whether it was asked for.
    """
    at = behind_everywhere(tokens)
    if tokens[at : at + 1] != ["origin"]:
        return False
    tokens = [*tokens[:at], *tokens[at + 1 :]]
    at = behind_everywhere(tokens)
    name = tokens[at].replace("-", "_") if at < len(tokens) else ""
    if name in SCRIPTS:
        run_app(script_app(name), [*tokens[:at], *tokens[at + 1 :]], tables=tables, own_table=name)
    else:
        run_app(origin_app(), tokens, tables=tables)
    return True
