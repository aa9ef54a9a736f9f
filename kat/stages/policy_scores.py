"""Implicit rewards of a policy, β · (log π − log π_ref): a part of `kat score`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.artifacts import readable_manifest
from kat.errors import KatError, MismatchError, OptionError
from kat.inputs import ComputedInput
from kat.models.digests import digest_now, model_inputs
from kat.models.sources import ModelSource, resolve
from kat.run_folder import checkpoint_path
from kat.training_config import DpoOptions, ScoreOptions

if TYPE_CHECKING:
    from kat.training.policy import Policy
    from kat.training.tokens import TokenPairs


@dataclass(frozen=True)
class Implicit:
    """What implicit rewards of a policy are made with: its reference, β, and whether they are of a token."""

    policy: ModelSource
    reference: ModelSource
    options: DpoOptions

    @property
    def inputs(self) -> dict[str, ComputedInput]:
        """The reference, as an input of a stage."""
        return model_inputs(self.reference, "reference")

    @property
    def recorded(self) -> dict[str, Any]:
        """What decides the numbers, for a manifest."""
        return {"beta": self.options.beta, "per_token": self.options.per_token}


def implicit_of(place: ModelSource, options: ScoreOptions, limits: Mapping[str, Any]) -> Implicit | None:
    """Return how a policy's completions are rewarded, or None for a reward model.

    A folder of `kat train-dpo` names its reference; `options.reference` names that of any other policy. Raises
    MismatchError where the reference that a folder was trained from is not there any more, or is another by now,
    OptionError for a reference of a reward model.
    """
    manifest = readable_manifest(place.path) or {}
    if options.reference is not None and manifest.get("stage") == "train-rm":
        raise OptionError(f"{place.path} is a reward model, and --reference is for policies. Leave it out.")
    is_dpo = manifest.get("stage") == "train-dpo"
    if not is_dpo and options.reference is None:
        return None
    trained = manifest.get("options", {}) if is_dpo else {}
    told = {name: trained[name] for name in ("beta", "per_token") if name in trained}
    how = replace(
        DpoOptions(policy=str(place.path), **told, **limits),
        long_completions=options.long_completions,
        precision=options.precision,
        row_tokens=options.row_tokens,
        allow_network=options.allow_network,
    )
    if options.reference is not None:
        return Implicit(place, resolve(options.reference, allow_network=options.allow_network), how)
    reference = trained_from(place.path, "--reference", allow_network=options.allow_network)
    assert reference is not None, "its manifest names one"
    return Implicit(place, reference, how)


def trained_from(folder: Path, option: str, *, allow_network: bool) -> ModelSource | None:
    """Return the policy that a folder of kat's trainers was trained from, or None if it does not say.

    Raises MismatchError, naming the `option` that helps, if that is not there any more, or is another by now.
    """
    manifest = readable_manifest(folder) or {}
    if manifest.get("stage") not in ("train-dpo", "train-grpo"):
        return None
    at = (manifest.get("inputs_at") or {}).get("policy")
    name = str((folder / at).resolve()) if isinstance(at, str) else str(manifest["options"].get("policy"))
    remedy = f"Its reference is needed, for a policy is measured against it: name it with {option}."
    try:
        source = resolve(name, allow_network=allow_network)
    except KatError as error:
        raise MismatchError(f"{folder} was trained from {name}, which is not there ({error}) {remedy}") from error
    for part, digest in manifest["inputs"].items():
        if part in ("policy", "policy_settings") and digest_now(part, source.path) != digest:
            raise MismatchError(f"{folder} was trained from {name}, which is another policy by now. {remedy}")
    return source


def checkpoints(out: Path) -> tuple[Path, Path]:
    """Return where work on the policy's log-probabilities and on the reference's is kept, until OUT is complete."""
    return checkpoint_path(out), checkpoint_path(out.with_name(f"{out.name}.reference"))


class ImplicitScorer:
    """A policy that rewards: first it, then its reference is in memory, never both."""

    def __init__(self, how: Implicit, device: str) -> None:
        from kat.training.train_dpo import load_dpo_policy

        self.how, self.device = how, device
        self.model: Policy | None = load_dpo_policy(how.options, device)

    def rewards(self, data: TokenPairs, kept: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the implicit rewards [P] of the chosen and rejected completions. `kept` are the checkpoints.

        Raises MismatchError for a reference that reads texts as other tokens.
        """
        from kat.training.train_dpo import load_dpo_policy, reference_of

        assert self.model is not None, "it rewards once"
        vocabulary = self.model.loaded.tokenizer.get_vocab()
        options = self.how.options
        after = reference_of(self.model, data, options, kept=kept[0], progress=True)
        self.model = None
        reference = load_dpo_policy(replace(options, policy=str(self.how.reference.name)), self.device)
        if reference.loaded.tokenizer.get_vocab() != vocabulary:
            raise MismatchError(
                f"{self.how.reference.name} has another vocabulary than {self.how.policy.name}: its log-probabilities "
                "are of other tokens. Name the policy that training started from with --reference."
            )
        before = reference_of(reference, data, options, kept=kept[1], progress=True)
        chosen, rejected = (options.beta * (one - two) for one, two in zip(after, before, strict=True))
        return chosen, rejected
