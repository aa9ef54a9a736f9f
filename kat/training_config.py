"""What can be set of training: as in `kat.config`, whose file is full."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from kat.artifacts import readable_manifest
from kat.config import NOT_RECORDED, ModelName, Precision
from kat.errors import OptionError
from kat.panels import ANSWERS, TRAINING, WEIGHTS
from kat.parameters import SMALLEST, flag, integer, number, one_of, option, whole_number


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class PairTrainingOptions:
    """What trainings on weighed pairs have in common; `learning_rate` and `backbone_lr` are a subclass' own."""

    train: Annotated[str, option("What trains with the head: head (nothing else), last:N blocks, lora or all.")] = (
        "last:2"
    )
    lora_rank: Annotated[int, integer("Rank of the adapters of --train lora; they are scaled by 2.")] = 16
    epochs: Annotated[int, integer("Passes over the pairs, at most.")] = 1
    max_steps: Annotated[int | None, integer("Steps at most [default: no limit].")] = None
    batch_size: Annotated[int, integer("Pairs of a step at most; whole prompts are kept together.")] = 64
    weight_decay: Annotated[float, option("Of AdamW.")] = 0.0
    grad_clip: Annotated[float, option("Largest norm of a step's gradient; 0 for no limit.")] = 1.0
    schedule: Annotated[Literal["linear", "cosine", "constant"], option("Of the rates, after the warm-up.")] = "linear"
    warmup: Annotated[float, option("Share of the steps over which the rates rise.")] = 0.03
    max_len: Annotated[int, integer("Tokens of prompt and completion at most; prompts lose their beginning.")] = 512
    min_prompt: Annotated[int, integer("Tokens that a completion leaves for its prompt.")] = 128
    long_completions: Annotated[
        Literal["error", "drop"], option("A pair with a completion over max_len - min_prompt tokens.")
    ] = "error"
    weight_by: Annotated[
        Literal["loss", "sampling"], option("Weights scale a pair's loss, or say how often it stands in a pass.")
    ] = "loss"
    precision: Annotated[Precision, option("Of matrix products; auto takes bfloat16 where it is faster.")] = "auto"
    seed: Annotated[int, integer("Of the order of the pairs.")] = 0
    row_tokens: Annotated[int, integer("Tokens that are computed at a time.")] = field(
        default=4096, metadata=NOT_RECORDED
    )
    log_every: Annotated[int, integer("Steps between lines of progress.")] = field(default=25, metadata=NOT_RECORDED)
    select: Annotated[
        Literal["last", "best"],
        option("Step that is saved: the last, or the best measured, by loss on a twentieth of the training groups."),
    ] = "last"
    eval_every: Annotated[int, integer("Steps between measurements on the validation pairs; 0 for none.")] = field(
        default=100, metadata=NOT_RECORDED
    )
    save_every: Annotated[int, integer("Steps between checkpoints.")] = field(default=100, metadata=NOT_RECORDED)
    report_to: Annotated[
        Literal["none", "tensorboard", "trackio", "wandb"],
        option("Where the log's numbers go too; TensorBoard's files go to OUT.tensorboard."),
    ] = field(default="none", metadata=NOT_RECORDED)
    allow_network: Annotated[bool, flag("Let a hub name be downloaded.")] = field(default=False, metadata=NOT_RECORDED)

    def __post_init__(self) -> None:
        one_of("report_to", self.report_to, ("none", "tensorboard", "trackio", "wandb"))
        one_of("select", self.select, ("last", "best"))
        if self.select == "best" and not self.eval_every:
            raise OptionError("select is best, and eval_every 0: nothing would be measured. Give --eval_every N.")
        one_of("schedule", self.schedule, ("linear", "cosine", "constant"))
        one_of("long_completions", self.long_completions, ("error", "drop"))
        one_of("weight_by", self.weight_by, ("loss", "sampling"))
        one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        for name in ("epochs", "lora_rank", "batch_size", "max_len", "row_tokens", "log_every", "save_every"):
            whole_number(name, getattr(self, name))
        for name in ("min_prompt", "seed", "eval_every"):
            whole_number(name, getattr(self, name), least=0)
        if self.max_steps is not None:
            whole_number("max_steps", self.max_steps)
        for name, high in (("weight_decay", math.inf), ("grad_clip", math.inf), ("warmup", 1.0)):
            number(name, getattr(self, name), high=high)
        if self.min_prompt >= self.max_len:
            raise OptionError(f"min_prompt is {self.min_prompt} and max_len {self.max_len}; expected less.")

    @property
    def recorded_too(self) -> dict[str, Any]:
        """What changes the result only as others are set: steps that may be the best are those that are measured."""
        return {"eval_every": self.eval_every} if self.select == "best" else {}


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class RewardOptions(PairTrainingOptions):
    """How a reward model is trained."""

    model: ModelName = "smollm2"
    learning_rate: Annotated[float, option("Of the head.")] = 5e-4
    backbone_lr: Annotated[float, option("Of everything below the head.")] = 5e-5
    center_rewards: Annotated[
        float, option("Factor of (chosen + rejected)² in the loss, which keeps rewards near 0.")
    ] = 0.0
    activation_cache: Annotated[
        Path | None, option("With --train last:N, a folder that keeps what these blocks are given, for any training.")
    ] = field(default=None, metadata=NOT_RECORDED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"head|all|lora|last:[1-9]\d*", self.train):
            raise OptionError(f"train is {self.train!r}; expected head, last:N (last:2), lora or all.")
        if self.activation_cache is not None and not self.train.startswith("last:"):
            raise OptionError(f"activation_cache is for train last:N, with frozen blocks; train is {self.train}.")
        for name in ("learning_rate", "backbone_lr", "center_rewards"):
            number(name, getattr(self, name))


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class DpoOptions(PairTrainingOptions):
    """How a policy is trained on pairs by DPO."""

    train: Annotated[str, option("What trains: last:N blocks, lora or all.")] = "all"
    policy: ModelName = "smollm2"
    learning_rate: Annotated[float, option("Of all that trains.")] = 5e-6
    beta: Annotated[float, option("How dear it is to leave the reference: rewards are β times log-ratios.")] = 0.1
    loss: Annotated[Literal["sigmoid", "ipo", "hinge"], option("sigmoid is DPO; the loss of a pair's margin.")] = (
        "sigmoid"
    )
    label_smoothing: Annotated[float, option("How likely a label is wrong, with --loss sigmoid.")] = 0.0
    per_token: Annotated[
        bool, flag("Divide a completion's log-ratio by its tokens, so that length alone earns nothing.")
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"all|lora|last:[1-9]\d*", self.train):
            raise OptionError(f"train is {self.train!r}; expected last:N (last:2), lora or all.")
        one_of("loss", self.loss, ("sigmoid", "ipo", "hinge"))
        number("learning_rate", self.learning_rate)
        number("beta", self.beta, SMALLEST)
        number("label_smoothing", self.label_smoothing, high=0.5)
        if self.label_smoothing and self.loss != "sigmoid":
            raise OptionError(f"label_smoothing is for loss sigmoid; loss is {self.loss}.")
        if not self.min_prompt:
            raise OptionError("min_prompt is 0; a policy answers prompts of at least one token.")


def trained_limits(model: Path) -> dict[str, Any]:
    """Return max_len and min_prompt that a folder of kat's was trained with, else the defaults."""
    manifest = readable_manifest(model) or {}
    stage = manifest.get("stage")
    trained = manifest.get("options", {}) if stage in ("train-rm", "train-dpo", "train-grpo") else {}
    limits = {name: trained.get(name, getattr(RewardOptions, name)) for name in ("max_len", "min_prompt")}
    if stage == "train-grpo" and not limits["min_prompt"]:
        limits["min_prompt"] = 1  # which max_new_tokens left all the same
    return limits


@Parameter(name="*", group=ANSWERS)
@dataclass(frozen=True)
class ScoreOptions:
    """How pairs are rewarded."""

    reference: Annotated[
        str | None, option("What a policy's log-ratios are to [default: what kat train-dpo started from].")
    ] = field(default=None, metadata=NOT_RECORDED)  # its hash is
    max_len: Annotated[
        int | None, integer("Tokens of prompt and completion at most [default: what the model was trained with].")
    ] = None
    min_prompt: Annotated[int | None, integer("Tokens that a completion leaves for its prompt.")] = None
    long_completions: Annotated[
        Literal["error", "drop"], option("A pair with a completion over max_len - min_prompt tokens.")
    ] = "error"
    precision: Annotated[Precision, option("Of matrix products; auto takes bfloat16 where it is faster.")] = "auto"
    row_tokens: Annotated[int, integer("Tokens that are computed at a time.")] = field(
        default=4096, metadata=NOT_RECORDED
    )
    allow_network: Annotated[bool, flag("Let a hub name be downloaded.")] = field(default=False, metadata=NOT_RECORDED)

    def __post_init__(self) -> None:
        one_of("long_completions", self.long_completions, ("error", "drop"))
        one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        whole_number("row_tokens", self.row_tokens)
        for name in ("max_len", "min_prompt"):
            if (value := getattr(self, name)) is not None:
                whole_number(name, value, least=int(name == "max_len"))


@Parameter(name="*", group=WEIGHTS)
@dataclass(frozen=True)
class OriginOptions:
    """How the origin's command weighs and splits pairs."""

    rm_source: Annotated[
        Literal["rm", "rm_density"], option("rm trains with all weights 1, rm_density with density weights.")
    ]
    weight_mode: Annotated[
        Literal["mean", "sum", "none"],
        option("mean (or sum): capped, mean 1 over the pairs that train; none: as they are, clipped at the cap."),
    ] = "mean"
    weight_cap: Annotated[float, option("Largest pair weight.")] = 10.0
    missing_weight: Annotated[
        Literal["error", "one"], option("What a pair gets whose opening has no density weight.")
    ] = "error"
    val_ratio: Annotated[float, option("Share of the openings that validate, about.")] = 0.05
    val_seed: Annotated[int, integer("Of the split.")] = 123

    def __post_init__(self) -> None:
        one_of("rm_source", self.rm_source, ("rm", "rm_density"))
        one_of("weight_mode", self.weight_mode, ("mean", "sum", "none"))
        one_of("missing_weight", self.missing_weight, ("error", "one"))
        number("weight_cap", self.weight_cap, 1.0)
        number("val_ratio", self.val_ratio, high=1.0)
        whole_number("val_seed", self.val_seed, least=0)

    @property
    def density(self) -> bool:
        """Whether pairs are weighed."""
        return self.rm_source == "rm_density"
