"""What completions are worth: a reward model's number, or a function's, or several of them added."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kat.config import Precision
from kat.errors import InputError, KatError, ModelError, OptionError, first_words
from kat.records import Pair, Prefix
from kat.training.prompt_sampler import Asked
from kat.training_config import RewardOptions, trained_limits

if TYPE_CHECKING:
    from kat.training.reward import RewardModel

Function = Callable[[list[Prefix], list[str]], Sequence[float]]
"""What a user writes: a reward for each completion, of the prefix (`.messages`, `.opening`, `.id`) at its place."""

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""How a function is named: module:function, the module from the working directory or an installed package."""


class Reward(Protocol):
    """What rewards completions."""

    def __call__(self, asked: Sequence[Asked], completions: Sequence[str]) -> Sequence[float]:
        """Return a reward for each completion of the prompt at its place."""


class FunctionReward:
    """A user's function as a reward."""

    def __init__(self, function: Function) -> None:
        self._function = function

    def __call__(self, asked: Sequence[Asked], completions: Sequence[str]) -> Sequence[float]:
        """Return what the function gives for the prompts as prefixes."""
        return self._function([one.prefix for one in asked], list(completions))


class ModelReward:
    """A reward model of `kat train-rm`, or any other: each prompt once, each of its distinct completions once.

    It reads text as it was trained to, written by its own template: a completion that was cut off is closed by the end
    of its turn, for that is where the model looks.
    """

    def __init__(
        self, source: str, device: str = "auto", *, precision: Precision = "auto", allow_network: bool = False
    ) -> None:
        from kat.models.sources import resolve

        # What a policy says may take all of the room: a prompt that loses its beginning is better than no reward.
        limits = trained_limits(resolve(source, allow_network=allow_network).path) | {"min_prompt": 0}
        self._options = RewardOptions(model=source, precision=precision, allow_network=allow_network, **limits)
        self._model = model_that_rewards(self._options, device, "As a --reward, name one that kat train-rm made.")
        self._has_told = False

    def __call__(self, asked: Sequence[Asked], completions: Sequence[str]) -> Sequence[float]:
        """Return the model's rewards; that prompts are read in part is said the first time.

        Raises InputError for a completion that is longer than the model reads.
        """
        from kat.training.scoring import rewards_of
        from kat.training.tokens import prompt_facts, tell_prompts
        from kat.training.train import tokens_of

        pairs = [
            Pair(
                id=str(i),
                prefix=one.prefix,
                chosen=text,
                rejected=text,
                src="",
                row=i + 1,
                context=one.messages,
                tools=one.tools,
            )
            for i, (one, text) in enumerate(zip(asked, completions, strict=True))
        ]
        data = tokens_of(self._model, pairs, self._options, identical="keep")
        if not self._has_told and (data.cut or data.tools_unread):
            self._has_told = True
            read = prompt_facts(data.cut, data.tools_unread)
            tell_prompts(f"reward {self._options.model}", read, len(data.prompts), data.max_len)
        return rewards_of(self._model, data, self._options.row_tokens)[0].tolist()


def model_that_rewards(options: RewardOptions, device: str, remedy: str) -> RewardModel:
    """Load a reward model. Raises ModelError, with the `remedy`, for one without a head of its own: kat would
    draw one, and its rewards would be noise."""
    from kat.training.train import load_reward_model

    model = load_reward_model(options, device)
    if model.loaded.meta["head"] == "new":
        raise ModelError(f"{options.model} has no reward head: it is no reward model, and rewards nothing. {remedy}")
    return model


@contextlib.contextmanager
def _told(message: str) -> Iterator[None]:
    """Raise as an InputError what a user's function raises, its exit too."""
    try:
        yield
    except (KatError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, without loading torch
            raise
        raise InputError(f"{message}: {_place(error)}{first_words(error)}") from error


def _place(error: BaseException) -> str:
    """Return the file and line that raised, where it is not kat's own."""
    last = next(reversed(traceback.extract_tb(error.__traceback__)), None)
    return "" if last is None or last.filename in (__file__, importlib.__file__) else f"{last.filename}:{last.lineno}: "


class RewardSum:
    """Rewards of several sources, each times its weight; `parts` are those of the last call, [sources, N]."""

    def __init__(self, sources: Sequence[Reward], weights: Sequence[float], names: Sequence[str]) -> None:
        if not len(sources) == len(weights) == len(names):
            raise OptionError(f"There are {len(sources)} rewards and {len(weights)} weights of rewards.")
        self._sources, self._weights, self.names = sources, np.asarray(weights, np.float64), list(names)
        self.parts = np.zeros((len(sources), 0))

    def __call__(self, asked: Sequence[Asked], completions: Sequence[str]) -> np.ndarray:
        """Return rewards [N]. Raises InputError naming the source for another number of rewards, or no finite ones."""
        parts = []
        for source, name in zip(self._sources, self.names, strict=True):
            with _told(f"The reward {name} failed"):
                rewards = np.asarray(source(asked, completions), np.float64)
            if rewards.shape != (len(completions),):
                raise InputError(
                    f"The reward {name} gave numbers of shape {rewards.shape} for {len(completions)} completions; "
                    "expected one for each."
                )
            if not np.isfinite(rewards).all():
                bad = int(np.argmin(np.isfinite(rewards)))
                raise InputError(
                    f"The reward {name} is {rewards[bad]} for a completion of opening {asked[bad].opening_id}: "
                    f"{completions[bad][:80]!r}"
                )
            parts.append(rewards)
        self.parts = np.stack(parts)
        total: np.ndarray = self._weights @ self.parts
        return total


def reward_of(
    sources: Sequence[str | Function],
    weights: Sequence[float] | None,
    device: str,
    *,
    precision: Precision = "auto",
    allow_network: bool = False,
) -> RewardSum:
    """Return the sum of rewards: each a function, module:function, or the source of a reward model.

    Raises OptionError for none, another number of weights, or a function that is not there.
    """
    if not sources:
        raise OptionError("No reward is named: give --reward, a reward model or module:function.")
    if weights and len(weights) != len(sources):
        raise OptionError(f"There are {len(sources)} rewards and {len(weights)} reward_weights.")
    if weights and not np.isfinite(weights).all():
        raise OptionError(f"reward_weights are {list(weights)}; expected finite numbers.")
    parts: list[Reward] = []
    for source in sources:
        if not isinstance(source, str):
            parts.append(FunctionReward(source))
        elif is_function(source):
            parts.append(FunctionReward(_function(source)))
        else:
            parts.append(ModelReward(source, device, precision=precision, allow_network=allow_network))
    names = [s if isinstance(s, str) else getattr(s, "__name__", "reward") for s in sources]
    return RewardSum(parts, weights or [1.0] * len(parts), names)


def is_function(name: str) -> bool:
    """Tell whether a reward is named as module:function."""
    return NAME.fullmatch(name) is not None and not os.path.exists(name)


def _function(name: str) -> Function:
    module, _, function = name.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        reward: Function = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise OptionError(f"The reward {name} is not there: {error}.") from error
    except (Exception, SystemExit) as error:  # whatever a user's file does as it is read
        raise OptionError(f"The reward {name} cannot be read: {_place(error)}{first_words(error)}") from error
    if not callable(reward):
        raise OptionError(f"The reward {name} is no function.")
    return reward
