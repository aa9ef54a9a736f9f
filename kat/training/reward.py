"""A reward model on rows of prompts: one trunk a prompt, one branch a completion, one number a branch.

A causal reward is the head's value on the hidden state of a completion's last token; logits of the vocabulary are
never made. An encoder, whose attention looks ahead and shares no trunk, reads every sequence by itself and pools as its
class does. Both are what the saved `AutoModelForSequenceClassification` gives for the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from kat.errors import MissingExtraError, ModelError, OptionError
from kat.models.load import LoadedModel
from kat.packing.fused import fuse_for_training
from kat.packing.layout import pack
from kat.packing.switch import TOLERANCE, position_offset, switch_over
from kat.packing.trunks import Prompt, Row, plant

HEADS = ("score", "classifier")
"""What transformers calls the layer that makes a reward: of causal models, of encoders."""

BEHIND = ("norm", "norm_f", "final_norm", "ln_f", "final_layer_norm", "final_layernorm", "pooler")
"""What transformers calls what stands behind the last block: the last norm, and what pools."""


class RewardModel:
    """A loaded reward model (`kat.models.load.load_model` with kind "reward"), switched over to rows.

    `unshared` is None, or why trunks are computed once for each sequence. `autocast` runs it in bfloat16; the head is
    in float32 in any case.
    """

    def __init__(self, loaded: LoadedModel, *, autocast: bool = False) -> None:
        self.loaded = loaded
        self.model: Any = loaded.model
        self.autocast = autocast
        self.adapters: Any = None
        self.base: Any = getattr(self.model, self.model.base_model_prefix)
        self.head_name: str = _head_name(self.model)
        self.causal = self.head_name == HEADS[0]
        self._set_padding()
        self.unpacked = switch_over(self.base, loaded.limit)
        self.unshared = self._why_unshared()
        if autocast and self.device.type == "cpu":
            fuse_for_training(self.base)

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return self.model.device

    def merge(self) -> None:
        """Join adapters to the weights that they adapt, if there are any: the model is its own class again."""
        if self.adapters is not None:
            self.adapters.merge_and_unload()
            self.adapters = None

    def rewards(self, row: Row, ends: np.ndarray) -> torch.Tensor:
        """Return the rewards [E] float32 of the sequences that end with these tokens of a row."""
        return self.from_features(self.features(row, ends))

    def features(self, row: Row, ends: np.ndarray) -> torch.Tensor:
        """Return what the head reads of the sequences that end with these tokens of a row, [E, D] float32."""
        if self.unshared is None:
            return self.hidden(row)[torch.from_numpy(ends).to(self.device)].float()
        unique, inverse = np.unique(ends, return_inverse=True)
        sequences = [row.tokens[row.layout.sequence(int(end))] for end in unique]
        return self.separate_features(sequences)[torch.from_numpy(inverse).to(self.device)]

    def from_features(self, features: torch.Tensor) -> torch.Tensor:
        """Return the rewards [E] float32 of features [E, D]."""
        with torch.autocast(self.device.type, enabled=False):
            return self.head(features.float()).squeeze(-1).float()

    @property
    def head(self) -> torch.nn.Module:
        """Return the layer that makes a reward; a classifier of several layers as a whole."""
        return getattr(self.model, self.head_name)

    def separate_features(self, sequences: Sequence[np.ndarray]) -> torch.Tensor:
        """Return what the head reads of sequences that share nothing, as the model's class pools them: [B, D] float32,
        or [B, 1, D] for a head that takes the first token itself."""
        read: list[torch.Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, given: read.append(given[0].float()))
        try:
            self.separate_rewards(sequences)
        finally:
            hook.remove()
        features = read[0]
        # An encoder's class pools before the head; a causal one has the head read every token, and pools behind it.
        if not self.causal:
            return features if features.dim() == 2 else features[:, :1]
        last = torch.tensor([len(s) - 1 for s in sequences], device=features.device)
        return features[torch.arange(len(sequences), device=features.device), last]

    def separate_rewards(self, sequences: Sequence[np.ndarray]) -> torch.Tensor:
        """Return the rewards [B] float32 of token sequences that share nothing, by the model's own class."""
        pad = self.model.config.pad_token_id
        ids = np.full((len(sequences), max(map(len, sequences))), pad, np.int64)
        mask = np.zeros(ids.shape, np.int64)
        for i, sequence in enumerate(sequences):
            ids[i, : len(sequence)], mask[i, : len(sequence)] = sequence, 1
        arguments = {
            name: torch.from_numpy(x).to(self.device) for name, x in (("input_ids", ids), ("attention_mask", mask))
        }
        with self._cast(), self._packed_base():
            return self.model(**arguments, **self._no_cache()).logits.squeeze(-1).float()

    def hidden(self, row: Row, embeddings: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last hidden states [T, D] of a row; of `embeddings` [1, T, D] in the place of its tokens'."""
        if embeddings is None:
            given = {"input_ids": torch.from_numpy(row.tokens)[None].to(self.device)}
        else:
            given = {"inputs_embeds": embeddings}
        with self._cast():
            output = self.base(
                **given,
                position_ids=torch.from_numpy(row.layout.positions + position_offset(self.base))[None].to(self.device),
                layout=row.layout,
                **self._no_cache(),
            )
        return output.last_hidden_state[0]

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast)

    def _no_cache(self) -> dict[str, bool]:
        return {"use_cache": False} if getattr(self.model.config, "use_cache", None) else {}

    @contextmanager
    def _packed_base(self) -> Iterator[None]:
        """Let the backbone read padded batches [B, L] as one row without the padding; what is above it, its class's
        own pooling and head, sees hidden states [B, L, D] as ever."""
        if self.unpacked is not None:
            yield
            return
        read = self.base.forward

        def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> Any:
            # By length: neighbours of about one length share the products of attention.
            lengths = attention_mask.sum(1).cpu().numpy()
            order = np.argsort(lengths, kind="stable")
            padded = input_ids.cpu().numpy()
            ids, layout = pack([padded[i, : lengths[i]] for i in order.tolist()])
            positions = torch.from_numpy(layout.positions + position_offset(self.base))
            output = read(
                input_ids=torch.from_numpy(ids)[None].to(self.device),
                position_ids=positions[None].to(self.device),
                layout=layout,
                **self._no_cache(),
            )
            flat = output.last_hidden_state[0]
            places = (np.repeat(order, lengths[order]), layout.positions)
            indices = tuple(torch.from_numpy(x).to(self.device) for x in places)
            output.last_hidden_state = flat.new_zeros((*input_ids.shape, flat.shape[1])).index_put(indices, flat)
            if getattr(self.base, "pooler", None) is not None:
                output.pooler_output = self.base.pooler(output.last_hidden_state)
            return output

        self.base.forward = forward
        try:
            yield
        finally:
            del self.base.forward

    def _set_padding(self) -> None:
        """Name a padding token that ends no turn: the class looks for the last token that is not padding."""
        pad = self.loaded.chat.pad
        self.model.config.get_text_config().pad_token_id = self.model.config.pad_token_id = pad
        self.loaded.tokenizer.pad_token = self.loaded.tokenizer.convert_ids_to_tokens(pad)

    def _why_unshared(self) -> str | None:
        """Compare rows with sequences by themselves, as the class reads them; None if they give the same."""
        if not self.causal:
            return "its attention looks ahead"
        if self.unpacked is not None:
            return self.unpacked
        draw = np.random.default_rng(0)
        taken = [self.model.config.pad_token_id, *self.loaded.tokenizer.all_special_ids]
        choice = np.setdiff1d(np.arange(min(self.loaded.vocabulary, 1000)), taken)
        trunk = draw.choice(choice, 21)
        prompts = [
            Prompt(trunk, [draw.choice(choice, n) for n in (9, 3, 3)]),
            Prompt(np.concatenate([trunk, draw.choice(choice, 5)]), [draw.choice(choice, 4)]),
            Prompt(draw.choice(choice, 2), [draw.choice(choice, 1)]),
        ]
        row = plant(prompts)
        sequences = [np.concatenate([p.trunk, b]) for p in prompts for b in p.branches]
        before, self.autocast = self.autocast, False
        try:
            with torch.no_grad():
                ends = torch.from_numpy(np.concatenate(row.ends)).to(self.device)
                shared = self.from_features(self.hidden(row)[ends])
                separate = torch.cat([self.separate_rewards([s]) for s in sequences])
        # Other people's code, called in a way that it may not foresee: whatever it raises says that it cannot.
        except Exception as error:
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        finally:
            self.autocast = before
        off = float((shared - separate).abs().max() / separate.abs().max().clamp_min(1e-6))
        return None if off <= TOLERANCE else f"with shared trunks its rewards differ by {off:.1e}"


class Trainable(Protocol):
    """A model some of whose parameters train: a reward model, whose head always does, or a policy, which names none."""

    model: Any
    base: Any
    adapters: Any

    @property
    def head_name(self) -> str | None:
        """Return the name of the layer that always trains."""


def choose_trainable(model: Trainable, train: str, lora_rank: int = 16) -> list[str]:
    """Let gradients through what `train` names, "head", "last:N", "lora" or "all", and through nothing else; return the
    names.

    "lora" gives every linear layer of the blocks adapters of `lora_rank` (Hu et al. 2021, by peft), which `merge` joins
    to the weights.

    A head of rewards always trains; that of a policy, over the vocabulary, with "all" alone. "last:N" are the last N
    blocks and the norm behind them. Raises OptionError for another word, or more blocks than there are.
    """
    module = model.model
    if train == "lora":
        _add_adapters(model, lora_rank)
        return [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    stack_name, stack = blocks_of(model.base)
    kept = None
    if train.startswith("last:") and train[5:].isdigit():
        kept = int(train[5:])
        if not 1 <= kept <= len(stack):
            raise OptionError(f"train is {train}; the model has {len(stack)} blocks.")
    elif train not in ("head", "all"):
        raise OptionError(f"train is {train!r}; expected head, last:N, lora or all.")
    prefix = f"{module.base_model_prefix}."
    names = []
    for name, parameter in module.named_parameters():
        of_base = name.removeprefix(prefix) if name.startswith(prefix) else None
        trains = (
            train == "all"
            or (of_base is None and model.head_name is not None)
            or (kept is not None and of_base is not None and _is_late(of_base, stack_name, len(stack), kept))
        )
        parameter.requires_grad_(trains)
        if trains:
            names.append(name)
    return names


def _head_name(model: torch.nn.Module) -> str:
    names = [name for name in HEADS if hasattr(model, name)]
    if not names:
        raise ModelError(
            f"{type(model).__name__} has no head named {' or '.join(HEADS)}; kat trains reward models of causal "
            "models and encoders. Name another with --model."
        )
    return names[0]


def _add_adapters(model: Trainable, rank: int) -> None:
    """Give the linear layers of the blocks adapters, drawn from a fixed seed, and let gradients through them and the
    head alone."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtraError("Adapters need peft, which is not installed. Type: pip install 'peft>=0.17'") from error
    if model.adapters is None:
        stack_name, stack = blocks_of(model.base)
        inside = f"{model.model.base_model_prefix}.{stack_name}."
        linear = [name for name, layer in stack.named_modules() if isinstance(layer, torch.nn.Linear | Conv1D)]
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0.0,
            bias="none",
            target_modules=[inside + name for name in linear],
            fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in stack.modules()),
        )
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model.adapters = get_peft_model(model.model, config)
    for name, parameter in model.model.named_parameters():
        parameter.requires_grad_("lora_" in name or name.startswith(f"{model.head_name}."))


def _is_late(name: str, stack_name: str, blocks: int, kept: int) -> bool:
    """Tell whether a parameter of the backbone is of its last `kept` blocks, or of a norm or pooler behind them."""
    if name.startswith(f"{stack_name}."):
        return int(name.removeprefix(f"{stack_name}.").split(".")[0]) >= blocks - kept
    beside = stack_name.rpartition(".")[0]  # OPT's norm is its decoder's, as the blocks are
    return name.removeprefix(f"{beside}.").split(".")[0] in BEHIND


def blocks_of(base: torch.nn.Module) -> tuple[str, torch.nn.ModuleList]:
    """Return the backbone's blocks: its longest list of modules."""
    lists = [(name, m) for name, m in base.named_modules() if isinstance(m, torch.nn.ModuleList)]
    if not lists:
        raise ModelError(f"{type(base).__name__} has no list of blocks; --train all or head needs none.")
    return max(lists, key=lambda one: len(one[1]))
