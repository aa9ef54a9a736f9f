"""Read what a sentence-transformers directory says of its transformer, pooling, length, prompts and further modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kat.config import NO_PROMPT
from kat.errors import ModelError, OptionError
from kat.models.own_code import COPY_AGAIN, ELSEWHERE, read_json, read_settings

_POOLINGS = {"mean_tokens": "mean", "mean": "mean", "cls_token": "cls", "cls": "cls", "lasttoken": "last"}
_AFTER = ("Dense", "LayerNorm", "Normalize")


@dataclass(frozen=True)
class Module:
    """A module that follows the pooling: its kind (Dense, LayerNorm or Normalize), folder and settings."""

    kind: str
    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SentenceSettings:
    """What a model's directory says; None or empty where it does not.

    `folder` holds the transformer. `max_tokens` is the limit that `limit_file` names. `after` are the modules behind
    the pooling, the last Normalize left out, for every vector of kat gets unit length. `truncate` is the number of
    columns that are kept. A prompt goes before each text; without `include_prompt` its tokens are not pooled.
    """

    folder: Path
    pooling: str = "mean"
    max_tokens: int | None = None
    limit_file: Path | None = None
    lower_case: bool = False
    include_prompt: bool = True
    after: tuple[Module, ...] = ()
    truncate: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None

    def prompt(self, name: str | None) -> str:
        """Return the text that goes before each text: of a prompt's name, or (None) the model's default, or "".

        Raises OptionError for a name that the model does not have.
        """
        if name == NO_PROMPT:
            return ""
        if name is None:
            return self.prompts[self.default_prompt] if self.default_prompt else ""
        if name not in self.prompts:
            known = ", ".join([*self.prompts, NO_PROMPT])
            raise OptionError(f"prompt_name is {name!r}; the model in {self.folder} has: {known}.")
        return self.prompts[name]

    def reading(self, prompt_name: str | None) -> dict[str, Any]:
        """Return what of this changes vectors beside weights, length and pooling: what a manifest holds of it."""
        prompt = self.prompt(prompt_name)
        said: dict[str, Any] = {"prompt": prompt, "prompt_pooled": None if self.include_prompt or not prompt else False}
        said |= {"lower_case": self.lower_case, "columns": self.truncate, "modules": [m.kind for m in self.after]}
        return {name: value for name, value in said.items() if value or (value is False and name == "prompt_pooled")}


def sentence_settings(path: Path) -> SentenceSettings:
    """Return what a model's directory says of how it is read.

    Another directory than sentence-transformers' is the transformer itself. Raises ModelError for a module that kat
    cannot apply, and for a default prompt that is not among the prompts.
    """
    modules_file = path / "modules.json"
    if not modules_file.is_file():
        return SentenceSettings(path)
    settings: dict[str, Any] = {"folder": path}
    after: list[Module] = []
    for module in _modules(modules_file):
        kind, place = _kind(module, modules_file), path / module["path"]
        config = read_settings(place / "config.json")
        if kind == "Transformer":
            settings |= {"folder": place, **_transformer(place)}
        elif kind == "Pooling":
            settings |= {
                "pooling": _pooling_name(config, place),
                "include_prompt": bool(config.get("include_prompt", True)),
            }
        elif kind in _AFTER:
            after.append(Module(kind, place, config))
        elif kind != "Dropout":  # which does nothing once a model is trained
            known = ", ".join(("Transformer", "Pooling", *_AFTER))
            raise ModelError(f"{modules_file} has a module {kind}; kat applies {known}. {ELSEWHERE}")
    if after and after[-1].kind == "Normalize":
        after.pop()
    return SentenceSettings(**settings, after=tuple(after), **_prompts(path / "config_sentence_transformers.json"))


def _modules(file: Path) -> list[Mapping[str, str]]:
    """Return the modules that a modules.json lists. Raises ModelError for one of another form."""
    modules = read_json(file)
    names = ("type", "path")
    for module in modules if isinstance(modules, list) else [modules]:
        if not isinstance(module, dict) or not all(isinstance(module.get(name), str) for name in names):
            raise ModelError(
                f'{file} holds {module!r:.80}; expected a list of {{"type": "…", "path": "…"}}. {COPY_AGAIN}'
            )
        place = Path(module["path"])
        if "\0" in module["path"] or place.is_absolute() or ".." in place.parts:
            raise ModelError(f"{file} has the path {module['path']!r}, which is not inside the model. {COPY_AGAIN}")
    return modules if isinstance(modules, list) else [modules]


def _kind(module: Mapping[str, Any], file: Path) -> str:
    """Return a module's class. Raises ModelError for one that is not sentence-transformers' own."""
    package, _, kind = module["type"].rpartition(".")
    if package.split(".")[0] != "sentence_transformers":
        raise ModelError(f"{file} names code of its own ({module['type']}), which kat never runs. {ELSEWHERE}")
    return kind


def _transformer(folder: Path) -> dict[str, Any]:
    file = next(iter(sorted(folder.glob("sentence_*_config.json"))), None)
    if file is None:
        return {}
    config = read_settings(file)
    task = config.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ModelError(f"{file} has the transformer_task {task!r}; kat does feature-extraction. {ELSEWHERE}")
    return {
        "max_tokens": _count(config, "max_seq_length", file),
        "limit_file": file,
        "lower_case": bool(config.get("do_lower_case")),
    }


def _count(config: Mapping[str, Any], name: str, file: Path) -> int | None:
    """Return a whole number of settings, None for none and 0. Raises ModelError for anything else."""
    value = config.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value or None
    raise ModelError(f"{file} has {name} {value!r}; expected a whole number. {COPY_AGAIN}")


def _pooling_name(config: Mapping[str, Any], place: Path) -> str:
    if mode := config.get("pooling_mode"):
        modes = mode if isinstance(mode, list) else [mode]
    else:
        modes = [k.removeprefix("pooling_mode_") for k, v in config.items() if k.startswith("pooling_mode_") and v]
    if len(modes) != 1 or not isinstance(modes[0], str) or modes[0] not in _POOLINGS:
        raise ModelError(f"{place / 'config.json'} pools by {modes}; kat knows mean, cls and last. {ELSEWHERE}")
    return _POOLINGS[modes[0]]


def _prompts(file: Path) -> dict[str, Any]:
    config = read_settings(file)
    named = config.get("prompts") or {}
    if not isinstance(named, dict) or not all(isinstance(text, str | None) for text in named.values()):
        raise ModelError(f"{file} has the prompts {named!r:.80}; expected text by name. {COPY_AGAIN}")
    prompts = {name: text or "" for name, text in named.items()}
    default = config.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ModelError(f"{file} has the default prompt {default!r}, but only these prompts: {', '.join(prompts)}.")
    return {"prompts": prompts, "default_prompt": default, "truncate": _count(config, "truncate_dim", file)}
