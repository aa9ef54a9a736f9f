"""Write conversations as token ids: a prefix up to where a completion begins, and a completion with its end.

Prefix and completion are tokenised apart and joined, so that the ids of a trunk are a prefix of trunk + completion by
construction; one tokenisation of the joined text may merge tokens across the border. Three ways:

- the tokenizer's own chat template, where it has one;
- nanochat's, for its checkpoints: a tokenizer that renders by itself (`render`, `render_completion`);
- else the plain form: turns as `User: …` and `Assistant: …`, a system message as it is, an empty line between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kat.errors import InputError, ModelError
from kat.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\u2402kat\u2403"
_NAMES = {"user": "User", "assistant": "Assistant", "system": "", "tool": "Tool"}


@dataclass(frozen=True, eq=False)
class Chat:
    """How one tokenizer writes conversations."""

    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def kind(self) -> str:
        """ "template", or "plain" for a tokenizer without one."""
        return "template" if getattr(self.tokenizer, "chat_template", None) else "plain"

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of a conversation, ending where the assistant's next words begin.

        Raises InputError for no messages, ModelError if the template refuses the conversation in any form.
        """
        if not messages:
            raise InputError("There is nothing to render: the conversation has no messages.")
        return self._ids(self.text(messages), first=True)

    def render_completion(self, text: str) -> list[int]:
        """Return the token ids of what the assistant says, with the end of the turn."""
        before = " " if self.kind == "plain" else ""
        return [*self._ids(before + text, first=False), *self.end]

    def text(self, messages: Sequence[Message]) -> str:
        """Return the conversation as it is tokenised."""
        if self.kind == "plain":
            turns = [_plain_turn(m) for m in messages]
            return "\n\n".join([*turns, "Assistant:"])
        return self._templated(list(messages), open_ended=True)

    @cached_property
    def end(self) -> list[int]:
        """The ids that end a turn of the assistant: the template's, else the tokenizer's end token; never [pad]'s."""
        if self.kind == "template":
            after = self._templated(
                [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}], open_ended=False
            ).partition(_MARK)[2]
            ids, special = self._ids(after, first=False), set(self.tokenizer.all_special_ids)
            stop = next((i for i, token in enumerate(ids) if token in special), None)
            if stop is not None:
                return ids[: stop + 1]  # what follows belongs to the next turn
        ends = [self.tokenizer.eos_token_id, self.tokenizer.sep_token_id]
        return [token for token in ends if token is not None][:1]

    @cached_property
    def pad(self) -> int:
        """An id for padding that does not end a turn: who looks for the end must not find padding."""
        special = [self.tokenizer.pad_token_id, self.tokenizer.unk_token_id, self.tokenizer.bos_token_id, 0, 1]
        return next(token for token in special if token is not None and token not in self.end)

    def _ids(self, text: str, *, first: bool) -> list[int]:
        """Token ids; a conversation that begins here gets the tokenizer's own first token, unless it wrote it."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        if first and self.kind == "plain" and bos is not None and ids[:1] != [bos]:
            return [bos, *ids]
        return list(ids)

    def _templated(self, messages: list[Message], *, open_ended: bool) -> str:
        """By the template; a conversation that it refuses is tried again in the form that all accept."""
        from jinja2.exceptions import TemplateError

        template_options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": open_ended}
        try:
            return str(self.tokenizer.apply_chat_template(messages, **template_options))
        except TemplateError as refused:
            try:
                return str(self.tokenizer.apply_chat_template(alternating(messages), **template_options))
            except TemplateError:
                raise ModelError(f"The tokenizer's chat template refuses a conversation: {refused}.") from refused


def alternating(messages: Sequence[Message]) -> list[Message]:
    """Return the same conversation in turns of user and assistant, user first, for templates that insist on it.

    A system message goes into the user turn that follows; turns of one role in a row become one, an empty line
    between them; a conversation that starts with the assistant gets an empty user turn before it.
    """
    turns: list[Message] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1] = {"role": role, "content": f"{turns[-1]['content']}\n\n{message['content']}"}
        else:
            turns.append({"role": role, "content": message["content"]})
    if turns and turns[0]["role"] == "assistant":
        turns.insert(0, {"role": "user", "content": ""})
    return turns


def _plain_turn(message: Message) -> str:
    name = _NAMES.get(message["role"], message["role"].capitalize())
    return f"{name}: {message['content']}" if name else message["content"]
