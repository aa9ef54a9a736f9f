"""A reward model of nanochat 2025-10 for transformers, which has the backbone and no class with a head on it."""

from __future__ import annotations

from functools import cache

from transformers import AutoModelForSequenceClassification
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.nanochat.configuration_nanochat import NanoChatConfig
from transformers.models.nanochat.modeling_nanochat import NanoChatPreTrainedModel

from kat.models.nanochat.rotations import round_rotations


class NanoChatForSequenceClassification(GenericForSequenceClassification, NanoChatPreTrainedModel):
    """The backbone with a linear head: logits [B, num_labels] of the last token that is not padding."""

    def __init__(self, config: NanoChatConfig) -> None:
        super().__init__(config)
        round_rotations(self)


@cache
def register() -> None:
    """Register the class with transformers' Auto class, unless transformers has come to have one itself."""
    if NanoChatConfig not in AutoModelForSequenceClassification._model_mapping:
        # `exist_ok`: without it transformers skips configurations of its own, without a word.
        AutoModelForSequenceClassification.register(NanoChatConfig, NanoChatForSequenceClassification, exist_ok=True)
