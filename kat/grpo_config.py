"""What can be set of GRPO: as in `kat.config`."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from cyclopts import Parameter

from kat.config import NOT_RECORDED, Precision
from kat.errors import OptionError
from kat.panels import ANSWERS, TRAINING
from kat.parameters import SMALLEST, flag, integer, number, one_of, option, whole_number

_COUNTS = ("max_steps", "batch_size", "max_new_tokens", "max_len", "updates_per_rollout", "minibatches", "decode_rows")
_CHOICES = {
    "ratio": ("token", "sequence", "cispo"),
    "scale_rewards": ("batch", "group", "none"),
    "normalise": ("dapo", "grpo", "dr_grpo"),
    "schedule": ("constant", "linear"),
    "precision": ("auto", "float32", "bfloat16"),
    "report_to": ("none", "tensorboard", "trackio", "wandb"),
}


@Parameter(name="*", group=TRAINING)
@dataclass(frozen=True)
class GrpoOptions:
    """How a policy is trained by GRPO."""

    policy: Annotated[str, option("The model to start from, and to measure KL from.")] = "smollm2"
    max_steps: Annotated[int, integer("Steps: a rollout, and the updates on it.")] = 500
    batch_size: Annotated[int, integer("Prompts of a step.")] = 16
    num_generations: Annotated[int, integer("Completions of a prompt: its group.")] = 8
    max_new_tokens: Annotated[
        int, integer("Tokens of a completion at most.", alias=["--generation-max-new-tokens"])
    ] = 128
    temperature: Annotated[
        float, option("Of sampling: softmax(logits / temperature).", alias=["--generation-temperature-policy"])
    ] = 1.0
    top_p: Annotated[
        float, option("Draw from the likeliest tokens that have this share; trains on another policy.")
    ] = 1.0
    top_k: Annotated[int | None, integer("Draw from so many likeliest tokens; trains on another policy.")] = None
    max_len: Annotated[int, integer("Tokens of prompt and completion at most; prompts lose their beginning.")] = 512
    min_prompt: Annotated[int, integer("Tokens that max_new_tokens leave for a prompt.")] = 128
    learning_rate: Annotated[float, option("Of AdamW.")] = 5e-6
    weight_decay: Annotated[float, option("Of AdamW.")] = 0.0
    grad_clip: Annotated[float, option("Largest norm of an update's gradient; 0 for no limit.")] = 0.5
    schedule: Annotated[Literal["constant", "linear"], option("Of the rate, after the warm-up.")] = "constant"
    warmup: Annotated[float, option("Share of the steps over which the rate rises.")] = 0.0
    beta: Annotated[float, option("Weight of KL from the first policy in the loss; 0 loads none.")] = 0.0
    target_kl: Annotated[
        float | None, option("KL a token that beta is adapted to, from --beta on [default: beta stays].")
    ] = None
    beta_gain: Annotated[float, option("How fast: beta · exp(gain · clip(KL / target - 1, -1, 1)) a step.")] = 0.02
    updates_per_rollout: Annotated[int, integer("Passes over the completions of a step.")] = 1
    minibatches: Annotated[int, integer("Updates that a pass is divided into.")] = 1
    ratio: Annotated[
        Literal["token", "sequence", "cispo"], option("Importance ratio: a token's, a completion's (GSPO), or CISPO's.")
    ] = "token"
    clip_low: Annotated[float, option("Ratios are clipped at 1 - clip_low …")] = 0.2
    clip_high: Annotated[float, option("… and at 1 + clip_high.")] = 0.2
    dual_clip: Annotated[
        float | None, option("Bound of the ratio where the advantage is negative, above 1 [default: none].")
    ] = None
    scale_rewards: Annotated[
        Literal["batch", "group", "none"],
        option("Advantages are divided by the deviation within all groups, within their own, or not."),
    ] = "batch"
    normalise: Annotated[
        Literal["dapo", "grpo", "dr_grpo"],
        option("Mean over tokens (dapo), over completions (grpo), or over max_new_tokens each (dr_grpo)."),
    ] = "dapo"
    mask_truncated: Annotated[
        bool, flag("Leave completions without an end out of the loss, not out of their group.")
    ] = False
    min_spread: Annotated[float, option("A group whose rewards lie closer together trains nothing.")] = 1e-6
    redraw: Annotated[int, integer("Rounds in which such groups are replaced by prompts of the same density.")] = 1
    tis_cap: Annotated[
        float, option("Largest correction of tokens that another engine drew: truncated importance sampling.")
    ] = 2.0
    fixed_prompts: Annotated[int, integer("Prompts of each density bin answered before, during and after.")] = 4
    precision: Annotated[Precision, option("Of matrix products; auto takes bfloat16 where it is faster.")] = "auto"
    seed: Annotated[int, integer("Of prompts and completions.")] = 0
    row_tokens: Annotated[int, integer("Tokens that are trained on at a time.")] = field(
        default=4096, metadata=NOT_RECORDED
    )
    decode_rows: Annotated[int, integer("Completions that grow together.")] = field(default=64, metadata=NOT_RECORDED)
    log_every: Annotated[int, integer("Steps between lines of progress.")] = field(default=25, metadata=NOT_RECORDED)
    eval_every: Annotated[int, integer("Steps between answers to the fixed prompts; 0 for first and last.")] = field(
        default=100, metadata=NOT_RECORDED
    )
    save_every: Annotated[int, integer("Steps between checkpoints.")] = field(default=25, metadata=NOT_RECORDED)
    report_to: Annotated[
        Literal["none", "tensorboard", "trackio", "wandb"],
        option("Where the log's numbers go too; TensorBoard's files go to OUT.tensorboard."),
    ] = field(default="none", metadata=NOT_RECORDED)
    allow_network: Annotated[bool, flag("Let a hub name be downloaded.")] = field(default=False, metadata=NOT_RECORDED)

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            one_of(name, getattr(self, name), allowed)
        for name in (*_COUNTS, "row_tokens", "log_every", "save_every"):
            whole_number(name, getattr(self, name))
        for name in ("min_prompt", "redraw", "fixed_prompts", "seed", "eval_every"):
            whole_number(name, getattr(self, name), least=0)
        whole_number("num_generations", self.num_generations, least=2)
        if self.top_k is not None:
            whole_number("top_k", self.top_k)
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is None and name in ("target_kl", "dual_clip"):
                continue
            number(name, value, low, high)
        if self.max_len - self.max_new_tokens < max(self.min_prompt, 1):
            raise OptionError(
                f"max_len is {self.max_len}, of which max_new_tokens, {self.max_new_tokens}, leave "
                f"{self.max_len - self.max_new_tokens} for the prompt; min_prompt is {self.min_prompt}. "
                "Raise --max_len, or lower --max_new_tokens."
            )
        if self.minibatches > self.batch_size:
            raise OptionError(f"minibatches is {self.minibatches}; a step has {self.batch_size} prompts.")
        if self.target_kl is not None and not self.beta:
            raise OptionError("target_kl adapts beta, and beta is 0. Give --beta, or leave --target_kl out.")


@Parameter(name="*", group=ANSWERS)
@dataclass(frozen=True)
class AnswerOptions:
    """How policies answer prompts that validate, to be compared."""

    prompts: Annotated[int, integer("Prompts of each density bin.")] = 20
    max_new_tokens: Annotated[int, integer("Tokens of a completion at most.")] = 128
    temperature: Annotated[float, option("Of sampling: softmax(logits / temperature).")] = 1.0
    max_len: Annotated[
        int | None, integer("Tokens of prompt and completion at most [default: prompts as in the policy's training].")
    ] = None
    precision: Annotated[Precision, option("Of matrix products; auto takes bfloat16 where it is faster.")] = "auto"
    seed: Annotated[int, integer("Of completions, and of the bootstrap.")] = 0
    row_tokens: Annotated[int, integer("Tokens that are computed at a time.")] = field(
        default=4096, metadata=NOT_RECORDED
    )
    decode_rows: Annotated[int, integer("Completions that grow together.")] = field(default=64, metadata=NOT_RECORDED)
    allow_network: Annotated[bool, flag("Let a hub name be downloaded.")] = field(default=False, metadata=NOT_RECORDED)

    def __post_init__(self) -> None:
        whole_number("prompts", self.prompts)
        self.of_training("")

    def within(self, max_len: int) -> "AnswerOptions":
        """Return the options with this `max_len`, unless they have their own."""
        return self if self.max_len is not None else replace(self, max_len=max_len)

    def of_training(self, policy: str) -> GrpoOptions:
        """Return the options of a training that answers so. Raises OptionError for one that is out of range."""
        return GrpoOptions(
            policy=policy,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            max_len=GrpoOptions.max_len if self.max_len is None else self.max_len,
            min_prompt=1,
            precision=self.precision,
            seed=self.seed,
            row_tokens=self.row_tokens,
            decode_rows=self.decode_rows,
            allow_network=self.allow_network,
        )


_RANGES = (
    ("temperature", SMALLEST, math.inf),
    ("top_p", SMALLEST, 1.0),
    ("learning_rate", 0.0, math.inf),
    ("weight_decay", 0.0, math.inf),
    ("grad_clip", 0.0, math.inf),
    ("warmup", 0.0, 1.0),
    ("beta", 0.0, math.inf),
    ("target_kl", SMALLEST, math.inf),
    ("beta_gain", 0.0, math.inf),
    ("clip_low", 0.0, 1.0),
    ("clip_high", 0.0, math.inf),
    ("dual_clip", 1.0, math.inf),
    ("min_spread", 0.0, math.inf),
    ("tis_cap", SMALLEST, math.inf),
)
