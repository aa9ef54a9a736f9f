"""One model in one process: token ids to pooled vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kat.config import EmbedOptions
from kat.devices import arithmetic, multiplies_bfloat16
from kat.embedding.pooling import pool, pool_packed
from kat.embedding.tokenize import BulkTokenizer
from kat.errors import OptionError
from kat.models.load import LoadedModel, read_encoder
from kat.packing.budget import halves
from kat.packing.layout import Layout
from kat.packing.precision import to_bfloat16
from kat.packing.switch import hidden_states, probe_texts, switch_over
from kat.terminal import note

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CPU_BUDGET, GPU_BUDGET = 4096, 32_768
"""Tokens of a pack: enough to keep the matrix units busy, small enough for caches (CPU) and any memory (GPU)."""

ROWS = 32
"""In bfloat16 on a processor, tokens of a row are a multiple of this: see `Engine._filler`."""

_CLOSE = 0.98
"""Least mean cosine between the hidden states of a bf16 copy and those in float32 that is taken for mere rounding."""


@dataclass(frozen=True)
class Settings:
    """What makes an engine: the same settings and texts give the same vectors. Plain values, for they cross pipes."""

    model: str
    device: str
    precision: str
    pooling: str | None
    allow_network: bool = False
    prompt_name: str | None = None


class Engine:
    """A model in memory that reads packed rows if it can, else padded batches.

    `unpacked` is None, or why rows are not packed. For bfloat16 the linear layers are converted once where the
    converted model passes the probe too, else it is autocast. `budget` are the tokens that are read at a time: those
    of a pack, `full_budget`, until memory runs out. `multiplied` are the parameters that each token is multiplied with.
    `prompt` is the text that goes before each text. Modules behind the pooling compute in float32.

    Raises ModelError for a model that cannot be found or loaded.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.loaded = _read(settings)
        self.unpacked = switch_over(self.loaded.model, self.loaded.limit)
        self.pooling = settings.pooling or self.loaded.pooling
        self.precision = pick_precision(settings.precision, str(self.device))
        self.full_budget = self.budget = GPU_BUDGET if self.device.type == "cuda" else CPU_BUDGET
        self.multiplied = sum(p.numel() for p in self.loaded.model.parameters()) - _looked_up(self.loaded.model)
        sentence = self.loaded.sentence
        self.prompt = sentence.prompt(settings.prompt_name) if sentence else ""
        self._not_pooled = 0  # tokens at the beginning of every text that pooling leaves out
        if self.prompt and sentence and not sentence.include_prompt:
            self._not_pooled = prompt_length(self.loaded.tokenizer, self.prompt)
        self._autocast = False
        if self.precision == "bfloat16":
            self._to_bfloat16()

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return self.loaded.model.device

    @property
    def dimension(self) -> int:
        """Return D, the columns of a vector."""
        return self.loaded.dimension

    def facts(self) -> dict[str, Any]:
        """Return what the bytes of the vectors depend on besides texts, weights and threads, plain JSON."""
        own = {"precision": self.precision, "autocast": self._autocast, "budget": self.full_budget}
        return (
            arithmetic(str(self.device))
            | own
            | {"padded": bool(self.unpacked), "transformers": version("transformers")}
        )

    def vectors(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        """Return pooled vectors [B, D] float32, not yet of unit length, of texts as token ids.

        Where a GPU's memory does not hold them, they are read in two halves, and so on down to one text. Raises
        torch.OutOfMemoryError or MemoryError if it does not hold one text.
        """
        ran_out = False
        try:
            if self._size(tokens) <= self.budget or len(tokens) == 1:
                return self._forward(tokens)
        except torch.OutOfMemoryError:
            if len(tokens) == 1:
                raise
            ran_out, self.budget = True, max(self._size(tokens) // 2, 1)
            note(f"embed     out of memory: {self.budget:,} tokens at a time from here on")
        except RuntimeError as error:
            if "allocate memory" in str(error):  # torch's word for it on a processor
                raise MemoryError(str(error)) from error
            raise
        if ran_out and self.device.type == "cuda":
            torch.cuda.empty_cache()  # not above, where the error still holds what was computed
        cut = halves(np.fromiter(map(len, tokens), np.int64))
        return np.concatenate([self.vectors(tokens[:cut]), self.vectors(tokens[cut:])])

    def _size(self, tokens: Sequence[np.ndarray]) -> int:
        """Tokens that are read with these texts, padding included."""
        return sum(map(len, tokens)) if self.unpacked is None else len(tokens) * max(map(len, tokens))

    def _forward(self, tokens: Sequence[np.ndarray]) -> np.ndarray:
        # Not inference mode: it does not count a tensor's changes, which `kat.packing.norms.bf16_copy` relies on.
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            if self.unpacked is None:
                hidden, layout = hidden_states(self.loaded.model, [*tokens, *self._filler(tokens)])
                mask = None
            else:
                hidden, mask = self._padded(tokens)
                layout = None
            vectors = self._pooled(hidden, layout, mask)[: len(tokens)].float()
        if self.loaded.after is not None:
            with torch.no_grad():
                vectors = self.loaded.after(vectors)
        return vectors.cpu().numpy()

    def _pooled(self, hidden: torch.Tensor, layout: Layout | None, mask: torch.Tensor | None) -> torch.Tensor:
        """Pool a packed row [T, D], or padded ones [B, T, D] under a mask [B, T], to [B, D]."""
        if mask is not None and not self._not_pooled:
            return pool(hidden, mask, self.pooling)
        if mask is not None:
            hidden, layout = hidden[mask.bool()], Layout(mask.sum(1).cpu().numpy())
        assert layout is not None
        if self._not_pooled:
            hidden, layout = without_beginning(hidden, layout, self._not_pooled)
        return pool_packed(hidden, layout, self.pooling)

    def _filler(self, tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A text that makes the row's length one of few: oneDNN keeps its plan of every shape that it has met."""
        missing = -sum(map(len, tokens)) % ROWS
        few = self.precision == "bfloat16" and self.device.type == "cpu" and missing <= self.loaded.limit
        return [np.zeros(missing, np.int32)] if missing and few else []

    def _padded(self, tokens: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        pad = self.loaded.tokenizer.pad_token_id
        ids_bt = np.full((len(tokens), max(map(len, tokens))), 0 if pad is None else pad, np.int64)
        mask_bt = np.zeros(ids_bt.shape, np.int64)
        for row, ids in enumerate(tokens):
            ids_bt[row, : len(ids)] = ids
            mask_bt[row, : len(ids)] = 1
        mask = torch.from_numpy(mask_bt).to(self.device)
        padded = torch.from_numpy(ids_bt).to(self.device)
        return self.loaded.model(input_ids=padded, attention_mask=mask).last_hidden_state, mask

    def _to_bfloat16(self) -> None:
        """Convert the linear layers; load the model again for autocast if the bf16 copy does not pass the probe."""
        if self.unpacked is None:
            texts = probe_texts(self.loaded.model, self.loaded.limit)
            with torch.inference_mode():
                expected = torch.cat([hidden_states(self.loaded.model, [tokens])[0] for tokens in texts])
                to_bfloat16(self.loaded.model)
                if _close(self.loaded.model, texts, expected):
                    return
            self.loaded = _read(self.settings)
            self.unpacked = switch_over(self.loaded.model, self.loaded.limit)
        self._autocast = True


def left_out(engine: Engine, options: EmbedOptions) -> list[str]:
    """Return what to say where the model's default prompt is not applied though no option says so."""
    sentence = engine.loaded.sentence
    if options.render == "plain" or options.prompt_name is not None or not sentence or not sentence.prompt(None):
        return []
    said = f"The model's default prompt ({sentence.default_prompt}: {sentence.prompt(None)!r}) is left out"
    return [f"{said} before a chat template. --prompt_name none says that this is meant."]


def limit_of(engine: Engine, options: EmbedOptions) -> int:
    """Return the tokens of a text that are read. Raises OptionError for more than the model has positions for."""
    most = engine.loaded.most
    if options.max_tokens is None:
        return engine.loaded.limit
    if most and options.max_tokens > most:
        raise OptionError(f"max_tokens is {options.max_tokens}; the model has positions for {most}.")
    return options.max_tokens


def prompt_length(tokenizer: PreTrainedTokenizerBase, prompt: str) -> int:
    """Count the tokens of a prompt that pooling leaves out, the special ones before it included.

    By the rule of sentence_transformers.base.modules.transformer: those of the prompt alone, less one if it ends in a
    special token, which may be an unknown one.
    """
    bulk = BulkTokenizer(tokenizer)
    ids = bulk.framed(bulk.encode([prompt])[0])
    return len(ids) - int(ids[-1] in tokenizer.all_special_ids)


def without_beginning(hidden: torch.Tensor, layout: Layout, tokens: int) -> tuple[torch.Tensor, Layout]:
    """Leave the first tokens of every text out of a packed row [T, D]; its last one stays in any case."""
    left_out = np.minimum(tokens, layout.lengths - 1)
    stays = torch.from_numpy(layout.positions >= np.repeat(left_out, layout.lengths))
    return hidden[stays.to(hidden.device)], Layout(layout.lengths - left_out)


def _looked_up(model: torch.nn.Module) -> int:
    """Count the parameters of embedding tables, which no token is multiplied with."""
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))


def _close(model: PreTrainedModel, texts: list[np.ndarray], expected: torch.Tensor) -> bool:
    """Tell whether a converted model still gives about the same: a layer that mixes number types raises, or strays."""
    try:
        hidden, _ = hidden_states(model, texts)
    except RuntimeError:  # "expected scalar type Float but found BFloat16"
        return False
    return float(torch.nn.functional.cosine_similarity(hidden.float(), expected, dim=-1).mean()) > _CLOSE


def _read(settings: Settings) -> LoadedModel:
    return read_encoder(settings.model, settings.device, allow_network=settings.allow_network)


def pick_precision(precision: str, device: str) -> str:
    """Resolve `auto`: bfloat16 where the device multiplies it itself, which is faster than float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if multiplies_bfloat16(device) else "float32"
