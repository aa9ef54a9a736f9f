"""TRL's trainers with weights where they belong: `WeightedRewardTrainer`, `WeightedDPOTrainer`, `DensityGRPOTrainer`.

    from kat.integrations.trl import WeightedRewardTrainer

`with_weights` is the trainers' own join of weights with rows. Each class loads on first use, so that nothing here loads
TRL or torch before, and one trainer not the other's needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kat.errors import MissingExtraError
from kat.integrations.weights import with_weights

if TYPE_CHECKING:
    from kat.integrations._trl_dpo import WeightedDPOTrainer
    from kat.integrations._trl_grpo import DensityGRPOTrainer
    from kat.integrations._trl_reward import WeightedRewardTrainer

__all__ = ["DensityGRPOTrainer", "WeightedDPOTrainer", "WeightedRewardTrainer", "with_weights"]

_HOMES = {
    "DensityGRPOTrainer": "kat.integrations._trl_grpo",
    "WeightedDPOTrainer": "kat.integrations._trl_dpo",
    "WeightedRewardTrainer": "kat.integrations._trl_reward",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ImportError as error:
        raise MissingExtraError(f"TRL cannot be loaded ({error}). Type: pip install 'trl>=1'") from error
