"""Conversations inside a text: what templates write is read back, and what rows only talk about is left."""

import json
from random import Random

import jinja2
import pytest
from making import hh, jsonl, turn, write

from kat import read_pairs

TEMPLATES = {
    "ChatML": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n",
    "Llama 3": "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n",
    "Gemma": "<bos>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}<start_of_turn>model\n",
    "Zephyr": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}<|assistant|>\n",
    "HH text": "{% for m in messages %}{{ 'Human' if m.role == 'user' else 'Assistant' }}: {{ m.content }}\n\n"
    "{% endfor %}Assistant:",
    "User: / Assistant:": "{% for m in messages %}{{ m.role.capitalize() }}: {{ m.content }}\n\n{% endfor %}Assistant:",
    "### Human:": "{% for m in messages %}### {{ 'Human' if m.role == 'user' else 'Assistant' }}: {{ m.content }}\n"
    "{% endfor %}### Assistant:",
}
ENDS = {"ChatML": "<|im_end|>", "Llama 3": "<|eot_id|>", "Gemma": "<end_of_turn>\n", "Zephyr": "</s>"}


def read(tmp_path, rows):
    reader = read_pairs(write(tmp_path / "p.jsonl", jsonl(*rows)))
    return list(reader), reader


def conversations(rng, n, *, system):
    for i in range(n):
        history = [turn("system", "be kind")] if system and rng.random() < 0.5 else []
        history.append(turn("user", f"question {i}?"))
        for _ in range(rng.randrange(3)):
            history += [turn("assistant", "first: yes\nHuman rights"), turn("user", "and\n\nthen?")]
        yield history


@pytest.mark.parametrize("trailing", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_a_template_wrote_is_read_back(tmp_path, name, trailing):
    """The oracle is jinja2, which renders the templates as transformers does."""
    template = jinja2.Environment(keep_trailing_newline=trailing).from_string(TEMPLATES[name])
    histories = list(conversations(Random(name), 40, system=name in ("ChatML", "Llama 3", "Zephyr")))
    prompts = [template.render(messages=history) for history in histories]
    end = ENDS.get(name, "")
    found, reader = read(tmp_path, [{"prompt": p, "chosen": f"so{end}", "rejected": f"no{end}"} for p in prompts])
    assert [p.context for p in found] == histories
    assert {(p.chosen, p.rejected) for p in found} == {("so", "no")}
    [note] = reader.stats.inside_text
    assert name in note
    assert "read as messages (40 of the first 40 rows)" in note


def test_json_inside_a_text(tmp_path):
    histories = list(conversations(Random(1), 20, system=True))
    ends = [json.dumps([turn("assistant", text)]) for text in ("so", "no")]
    rows = [{"prompt": json.dumps(h), "chosen": ends[0], "rejected": ends[1]} for h in histories]
    found, reader = read(tmp_path, rows)
    assert [p.context for p in found] == histories
    assert (found[0].chosen, found[0].rejected) == ("so", "no")
    assert "JSON" in reader.stats.inside_text[0]


@pytest.mark.parametrize("prompt", ["How?\n", [turn("user", "How?")]], ids=str)
def test_completions_that_repeat_the_prompt(tmp_path, prompt):
    ends = ["so", "no"] if isinstance(prompt, str) else [[turn("assistant", "so")], [turn("assistant", "no")]]
    found, reader = read(tmp_path, [{"prompt": prompt, "chosen": prompt + ends[0], "rejected": prompt + ends[1]}])
    assert [(p.prefix.opening, p.chosen, p.rejected) for p in found] == [
        (prompt if prompt == "How?\n" else "How?", "so", "no")
    ]
    assert "repeat the prompt" in reader.stats.inside_text[0]


def test_one_way_may_hide_another(tmp_path):
    prompt = "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    found, reader = read(tmp_path, [{"prompt": prompt, "chosen": f"{prompt} so", "rejected": f"{prompt} no"}])
    assert found[0].context == [turn("user", "a"), turn("assistant", "b"), turn("user", "c")]
    assert (found[0].chosen, found[0].rejected) == (" so", " no")
    assert len(reader.stats.inside_text) == 2


def test_whole_conversations_without_leading_blank_lines(tmp_path):
    sides = [hh(("Human", "q"), ("Assistant", text)).lstrip() for text in ("so", "no")]
    [found], _ = read(tmp_path, [{"chosen": sides[0], "rejected": sides[1]}])
    assert (found.context, found.chosen, found.rejected) == ([turn("user", "q")], "so", "no")


@pytest.mark.parametrize(("shown", "taken"), [(100, True), (95, True), (94, False), (1, False)])
def test_nearly_all_rows_must_show_it(tmp_path, shown, taken):
    text = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    rows = [{"prompt": text if i < shown else "What is ChatML?", "chosen": "a", "rejected": "b"} for i in range(100)]
    found, reader = read(tmp_path, rows)
    assert found[0].prefix.opening == ("q" if taken else text)
    assert found[-1].prefix.opening == (rows[-1]["prompt"] if shown < 100 or not taken else "q")
    verdict = "read as messages" if taken else "left as it is"
    assert reader.stats.inside_text == [f"ChatML inside a text: {verdict} ({shown} of the first 100 rows)"]
    without = [n for what, n in reader.stats.kept.items() if what.startswith("without")]
    assert without == ([100 - shown] if taken and shown < 100 else [])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Tell Human: and Assistant: apart", "chosen": "Human: x", "rejected": "Assistant: y"},
        {"prompt": "[1, 2, 3]", "chosen": "[1]", "rejected": '{"a": 1}'},
        {"prompt": "q", "chosen": "q and a", "rejected": "b"},
        {"prompt": hh(("Human", "q")), "chosen": "a", "rejected": "b"},
        {"chosen": hh(("Human", "q"), ("Assistant", "a")), "rejected": hh(("Human", "q"), ("Assistant", "b"))},
    ],
    ids=str,
)
def test_other_texts_stay_as_they_are(tmp_path, row):
    found, reader = read(tmp_path, [row])
    assert not reader.stats.inside_text
    if row.get("prompt") and reader.stats.format == "trl-explicit":
        assert (found[0].prefix.opening, found[0].chosen, found[0].rejected) == tuple(row.values())
