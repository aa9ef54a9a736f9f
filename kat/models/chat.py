"""Write conversations as token ids: a prefix up to where a completion begins, and a completion with its end.

Prefix and completion are tokenised apart and joined, so that the ids of a trunk are a prefix of trunk + completion by
construction; one tokenisation of the joined text may merge tokens across the border. Two ways:

- the tokenizer's own chat template, where it has one (nanochat's checkpoints get nanochat's);
- else the plain form: turns as `User: …` and `Assistant: …`, a system message as it is, an empty line between them.

What a message says is never control: see `kat.models.content`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kat.errors import InputError, ModelError
from kat.models.content import content_tokenizer, free_letters
from kat.models.nanochat.tokenizer import TEMPLATE as NANOCHAT
from kat.models.turns import alternating as alternating
from kat.models.turns import plain_turn, text_of, with_calls_as_text
from kat.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\u2402kat\u2403"
_SAID = {"role", "content"}
Tools = list[dict[str, Any]] | None
"""The functions that a conversation may call, as its source describes them."""


@dataclass(frozen=True, eq=False)
class Chat:
    """How one tokenizer writes conversations.

    A message is {"role", "content"} and what else its source holds: `tool_calls`, `name`, a content of None beside
    calls, or content parts ({"type": "text", "text": …}). A template that knows them gets them as they are; for others
    calls are written into the content, a line of JSON each, and parts become their text.
    """

    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def kind(self) -> str:
        """ "template", or "plain" for a tokenizer without one."""
        return "template" if getattr(self.tokenizer, "chat_template", None) else "plain"

    def render(self, messages: Sequence[Message], tools: Tools = None) -> list[int]:
        """Return the token ids of a conversation, ending where the assistant's next words begin.

        The same ids as of `text`, but for text of control tokens in a message, which stays text. A last turn of the
        assistant that says something is the beginning of its words, and stays open, as TRL reads such prompts
        (`continue_final_message`). `tools` go to a template that knows them. Raises InputError for no messages,
        ModelError if the template refuses the conversation in any form.
        """
        if not messages:
            raise InputError("There is nothing to render: the conversation has no messages.")
        before, begun = _begun(messages)
        ids = self._with_bos(self._conversation_ids(self._accepted(before), tools=tools))
        return [*ids, *self.encode((" " if self.kind == "plain" else "") + begun)] if begun else ids

    def render_turns(
        self, context: Sequence[Message], turns: Sequence[Message], tools: Tools = None
    ) -> tuple[int, list[int]]:
        """Return how many tokens of `render(context, tools)` a completion goes on from, and its own token ids.

        One turn that only says something goes on from all of them: `render_completion`. Others (calls, their results,
        several turns) are read off the whole conversation as the template writes it, up to the end of the last turn;
        where it writes the context otherwise with them behind it, their common beginning is what they share.
        """
        trunk = self.render(context, tools)
        if len(turns) == 1 and set(turns[0]) <= _SAID and turns[0]["content"]:
            before = " " if self.kind == "plain" and not _begun(context)[1] else ""
            content = turns[0]["content"]
            if isinstance(content, str):
                return len(trunk), [*self.encode(before + content), *self.end]
            return len(trunk), self.render_completion(content)
        whole = self._with_bos(
            self._conversation_ids(self._accepted([*context, *turns]), open_ended=False, tools=tools)
        )
        if self.kind == "plain":
            whole += self.end
        elif self.end and self.end[-1] in whole:
            whole = whole[: len(whole) - whole[::-1].index(self.end[-1])]
        shared = next((i for i, (a, b) in enumerate(zip(trunk, whole, strict=False)) if a != b), None)
        shared = min(len(trunk), len(whole)) if shared is None else shared
        return shared, whole[shared:]

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_token_id
        return [bos, *ids] if self.kind == "plain" and bos is not None and ids[:1] != [bos] else ids

    @property
    def takes_tools(self) -> bool:
        """Whether the template writes the tools that a conversation may call."""
        return "tools" in self._template

    def render_completion(self, text: str | list[dict[str, Any]]) -> list[int]:
        """Return the token ids of what the assistant says, with the end of the turn.

        `text` may be content parts; nanochat's tool parts get its marks, other tokenizers their text.
        """
        if not isinstance(text, str) and self._is_nanochat:
            asked: Message = {"role": "user", "content": ""}
            whole = self._conversation_ids([asked, {"role": "assistant", "content": text}], open_ended=False)
            return whole[len(self._conversation_ids([asked])) :]
        before = " " if self.kind == "plain" else ""
        return [*self.encode(before + text_of(text)), *self.end]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text that stands in a message: no special token is added, and none is made of its
        letters."""
        content = content_tokenizer(self.tokenizer)
        return content.ids(text) if content.is_suspect(text) else self._ids(text)

    def text(self, messages: Sequence[Message]) -> str:
        """Return a conversation as text, ending where the assistant's next words begin.

        By the template, and where it refuses the conversation (a system message, two turns of one role in a row, an
        assistant that begins, a tool's result) by the template in strict turns; see `alternating`. Without a template
        in the plain form. Raises ModelError if the template refuses both, InputError for parts that are no text.
        """
        return self._text(self._accepted(messages), open_ended=True)

    @cached_property
    def end(self) -> list[int]:
        """The ids that end a turn of the assistant: the template's, else the tokenizer's end token; never [pad]'s."""
        if self.kind == "template":
            after = self._text(
                [{"role": "user", "content": "a"}, {"role": "assistant", "content": _MARK}], open_ended=False
            ).partition(_MARK)[2]
            ids, special = self._ids(after), set(self.tokenizer.all_special_ids)
            stop = next((i for i, token in enumerate(ids) if token in special), None)
            if stop is not None:
                return ids[: stop + 1]  # what follows belongs to the next turn
        ends = [self.tokenizer.eos_token_id, self.tokenizer.sep_token_id]
        return [token for token in ends if token is not None][:1]

    @cached_property
    def begin(self) -> list[int]:
        """The ids that every sequence begins with as the model was made: [bos], else [cls], else none.

        A template writes them itself, and `render` the first in the plain form; an encoder's classifying token is for
        who reads whole sequences.
        """
        tokens = [self.tokenizer.bos_token_id, self.tokenizer.cls_token_id]
        return [token for token in tokens if token is not None][:1]

    def template_ending_in_end(self) -> str | None:
        """Return the template, so changed that a closed conversation ends with the turn's last token; None if it does
        already, or cannot be changed so.

        Many write a line end behind it. A reward model's class takes the last token that is not padding, which has to
        be the same token for whoever renders.
        """
        if self.kind != "template" or not isinstance(self.tokenizer.chat_template, str):
            return None
        said: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        text = self._text(said, open_ended=False)
        if text.rstrip() == text:
            return None
        whole = f"{{% set kat_text %}}{self.tokenizer.chat_template}{{% endset %}}"
        changed = whole + "{{ kat_text if add_generation_prompt else kat_text.rstrip() }}"
        options: dict[str, Any] = {"tokenize": False, "chat_template": changed}
        closed = self.tokenizer.apply_chat_template(said, **options)
        opened = self.tokenizer.apply_chat_template(said[:1], add_generation_prompt=True, **options)
        same = closed == text.rstrip() and opened == self._text(said[:1], open_ended=True)
        return changed if same else None

    @cached_property
    def pad(self) -> int:
        """An id for padding that does not end a turn: who looks for the end must not find padding."""
        special = [self.tokenizer.pad_token_id, self.tokenizer.unk_token_id, self.tokenizer.bos_token_id, 0, 1]
        return next(token for token in special if token is not None and token not in self.end)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _conversation_ids(self, messages: list[Message], *, open_ended: bool = True, tools: Tools = None) -> list[int]:
        """Token ids of accepted messages; by the tokenizer itself where no content could be taken for control."""
        content = content_tokenizer(self.tokenizer)
        parts = self._is_nanochat and any(isinstance(m["content"], list) for m in messages)
        if not parts and not content.is_suspect([messages, tools]):
            return self._ids(self._text(messages, open_ended=open_ended, tools=tools))
        mark, cut = free_letters(2, [messages, tools], self._template)
        marked, tools = content.marked(messages, mark), content.marked(tools, mark)
        if parts:  # nanochat tokenises each part by itself
            marked = [m | {"content": _with_cuts(m["content"], cut)} for m in marked]
        return content.ids(self._text(marked, open_ended=open_ended, tools=tools), mark, cut)

    def _accepted(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with what the template does not know written as text."""
        plain = []
        for message in messages:
            content = message.get("content")
            if not message.get("tool_calls") or "tool_calls" not in self._template:
                message = with_calls_as_text(message)
            if isinstance(content, list) and not self._takes_parts:
                message = message | {"content": text_of(message["content"])}
            plain.append(dict(message))
        return plain

    @cached_property
    def _template(self) -> str:
        template = getattr(self.tokenizer, "chat_template", None) or ""
        return template if isinstance(template, str) else "\n".join(template.values())

    @cached_property
    def _is_nanochat(self) -> bool:
        return self._template == NANOCHAT

    @cached_property
    def _takes_parts(self) -> bool:
        """Whether the template writes the text of content parts, and not Python's notation of them."""
        from jinja2.exceptions import TemplateError

        parts = [{"type": "text", "text": _MARK}]
        asked: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": parts}]
        try:
            written = self._templated(asked, open_ended=False) if self.kind == "template" else ""
        except TemplateError:
            return False
        return _MARK in written and repr(_MARK) not in written and f'"{_MARK}"' not in written

    def _text(self, messages: list[Message], *, open_ended: bool, tools: Tools = None) -> str:
        """The template's words; a conversation that it refuses is tried again in the form that all accept."""
        from jinja2.exceptions import TemplateError

        if self.kind == "plain":
            turns = [plain_turn(m) for m in messages]
            return "\n\n".join([*turns, "Assistant:"] if open_ended else turns)
        try:
            return self._templated(messages, open_ended=open_ended, tools=tools)
        except TemplateError as refused:
            try:
                return self._templated(alternating(messages), open_ended=open_ended, tools=tools)
            except TemplateError:
                raise ModelError(f"The tokenizer's chat template refuses a conversation: {refused}.") from refused

    def _templated(self, messages: list[Message], *, open_ended: bool, tools: Tools = None) -> str:
        options: dict[str, Any] = {"tokenize": False, "add_generation_prompt": open_ended}
        if tools and self.takes_tools:
            options["tools"] = tools
        from jinja2.exceptions import TemplateError

        try:
            text = str(self.tokenizer.apply_chat_template(messages, **options))
            text.encode()  # half a letter is no text that a tokenizer takes
            return text
        except (TemplateError, MemoryError):
            raise
        except Exception as error:  # a template is a program, and stops at whatever it meets
            raise TemplateError(f"{type(error).__name__}: {error}") from error


def _begun(messages: Sequence[Message]) -> tuple[Sequence[Message], str]:
    """Return a conversation without the words that the assistant has begun its next turn with, and those words."""
    last = messages[-1]
    content = last.get("content")
    if len(messages) > 1 and last["role"] == "assistant" and isinstance(content, str) and set(last) <= _SAID:
        return messages[:-1], content
    return messages, ""


def _with_cuts(content: Any, cut: str) -> Any:
    """Parts with a cut before each text that follows another part."""
    if isinstance(content, str):
        return content
    return [part | {"text": cut * bool(n) + part["text"]} if "text" in part else part for n, part in enumerate(content)]
