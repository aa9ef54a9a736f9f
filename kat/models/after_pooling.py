"""The modules of a sentence-transformers model behind its pooling, as torch modules from vectors [B, D] to [B, D']."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kat.errors import ModelError
from kat.models.own_code import ELSEWHERE
from kat.models.sentence_transformer import Module, SentenceSettings

_WIDEST = 1 << 20
"""Columns of the widest vector; a file that says more is damaged, and would ask for any memory."""


class Dense(torch.nn.Module):
    """Computes activation(x·Wᵀ + b), and adds x, projected where the widths differ, if there is a residual.

    sentence_transformers.base.modules.dense.
    """

    def __init__(self, module: Module):
        super().__init__()
        config, file = module.config, module.folder / "config.json"
        inside, outside = _width(config, "in_features", file), _width(config, "out_features", file)
        for key in ("module_input_name", "module_output_name"):
            if config.get(key) not in (None, "sentence_embedding"):
                raise ModelError(f"{file} has {key} {config[key]!r}; kat applies it to the sentence. {ELSEWHERE}")
        self.linear = torch.nn.Linear(inside, outside, bias=bool(config.get("bias", True)))
        self.activation = _activation(config.get("activation_function", "torch.nn.modules.activation.Tanh"), file)
        self.added = bool(config.get("use_residual"))
        if self.added and inside != outside:
            self.residual = torch.nn.Linear(inside, outside, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return [B, D'] of vectors [B, D]."""
        activated = self.activation(self.linear(vectors))
        if not self.added:
            return activated
        return activated + (self.residual(vectors) if hasattr(self, "residual") else vectors)


class LayerNorm(torch.nn.Module):
    """Normalises each vector's columns: sentence_transformers.sentence_transformer.modules.layer_norm."""

    def __init__(self, module: Module):
        super().__init__()
        self.norm = torch.nn.LayerNorm(_width(module.config, "dimension", module.folder / "config.json"))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return [B, D] of vectors [B, D]."""
        return self.norm(vectors)


class Normalize(torch.nn.Module):
    """Gives each vector unit length."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return [B, D] of vectors [B, D]."""
        return torch.nn.functional.normalize(vectors, dim=1)


class Truncate(torch.nn.Module):
    """Keeps the first columns."""

    def __init__(self, columns: int):
        super().__init__()
        self.columns = columns

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return [B, columns] of vectors [B, D]."""
        return vectors[:, : self.columns]


def after_pooling(settings: SentenceSettings, width: int) -> tuple[torch.nn.Module | None, int]:
    """Return the modules behind the pooling in float32 (None for none), and the width D' of a vector behind them.

    `width` is that of a pooled vector. Raises ModelError for weights that are missing or of another width, and for an
    activation that torch.nn does not have.
    """
    stack: list[torch.nn.Module] = []
    for module in settings.after:
        layer, inside, outside = _layer(module, width)
        if inside != width:
            raise ModelError(f"{module.folder / 'config.json'} takes vectors of {inside} columns; they have {width}.")
        stack.append(layer)
        width = outside
    if settings.truncate and settings.truncate < width:
        stack.append(Truncate(settings.truncate))
        width = settings.truncate
    return (torch.nn.Sequential(*stack).eval() if stack else None), width


def _layer(module: Module, width: int) -> tuple[torch.nn.Module, int, int]:
    """Return a module with its weights, and the widths that it takes and gives."""
    if module.kind == "Normalize":
        return Normalize(), width, width
    layer: Dense | LayerNorm = Dense(module) if module.kind == "Dense" else LayerNorm(module)
    _load(layer, module.folder)
    if isinstance(layer, Dense):
        return layer, layer.linear.in_features, layer.linear.out_features
    return layer, layer.norm.normalized_shape[0], layer.norm.normalized_shape[0]


def _load(layer: torch.nn.Module, folder: Path) -> None:
    """Load a module's weights, safetensors preferred; of a pickle, tensors alone. Raises ModelError."""
    import pickle

    from safetensors.torch import load_file

    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    file = safe if safe.is_file() else pickled
    if not file.is_file():
        raise ModelError(f"{folder} holds no weights (model.safetensors or pytorch_model.bin).")
    try:
        state = load_file(safe) if file is safe else torch.load(file, weights_only=True, map_location="cpu")
        layer.load_state_dict({name: value.float() for name, value in state.items()})
    except pickle.UnpicklingError as error:  # its own words advise to run what is in the file
        raise ModelError(f"{file} is damaged, or a pickle of more than tensors, which is never run.") from error
    except torch.OutOfMemoryError:  # says nothing of the file
        raise
    except Exception as error:  # a damaged file makes its readers raise whatever they meet
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(f"{file} does not fit its config.json: {' '.join(lines[:2])}") from error


def _width(config: Any, name: str, file: Path) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _WIDEST:
        raise ModelError(f"{file} has {name} {value!r}; expected a whole number from 1 to {_WIDEST:,}.")
    return value


def _activation(name: Any, file: Path) -> torch.nn.Module:
    """Return an activation by the dotted name of its class; none but those of torch.nn are made."""
    if name is None:
        return torch.nn.Identity()
    name = str(name)
    activation = getattr(torch.nn, name.rsplit(".", 1)[-1], None)
    if name.startswith("torch.nn.") and isinstance(activation, type) and issubclass(activation, torch.nn.Module):
        try:
            return activation()
        except TypeError as error:
            raise ModelError(
                f"{file} has the activation_function {name!r}, which takes arguments that the file lacks. {ELSEWHERE}"
            ) from error
    raise ModelError(f"{file} has the activation_function {name!r}, which is none of torch.nn's. {ELSEWHERE}")
