"""What is embedded of a conversation: all of it but its boilerplate, its opening, or its last question."""

import json

import numpy as np
import pytest
from making import jsonl, tiny, turn, write

import kat

RULES = "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 "


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"), "Llama", pad_token_id=1)


def rows(path, *, system="", leading="", second=False):
    lines = []
    for i in range(30):
        messages = [turn("system", system)] if system else []
        messages.append(turn("user", f"{leading}w{i} w{i * 7 % 90} w20"))
        if second:
            messages += [turn("assistant", "w50 w51"), turn("user", f"w{i + 40} w3")]
        lines.append({"id": f"i{i}", "prefix": {"messages": messages}})
    return write(path, jsonl(*lines))


@pytest.fixture
def embed(kat_cli, tmp_path, model):
    """Run `kat embed`; give the vectors and what was printed."""

    def run(data, *more, name="out"):
        out = tmp_path / name
        ran = kat_cli("embed", data, "--out", out, "--model", model, "--processes", "1", "--device", "cpu", *more)
        assert ran.rc == 0, ran.stderr
        return np.load(out / "embeddings.npy"), ran.stdout

    return run


def test_a_constant_changes_no_vector(embed, tmp_path):
    plain, said = embed(rows(tmp_path / "plain.jsonl"), name="plain")
    assert "boilerplate" not in said
    assert "boilerplate" not in json.loads((tmp_path / "plain" / "manifest.json").read_text())["options"]
    for name, more in (("system", {"system": RULES}), ("leading", {"leading": RULES})):
        vectors, said = embed(rows(tmp_path / f"{name}.jsonl", **more), name=name)
        np.testing.assert_array_equal(vectors, plain)
        assert "left out (12 words): w1 w2" in said
        assert "left out of 30 texts; --boilerplate keep reads it too" in said
        options = json.loads((tmp_path / name / "manifest.json").read_text())["options"]
        assert options["boilerplate"] == {
            name: RULES.rstrip() + (" " if options["boilerplate"][name][-1] == " " else "")
        }


def test_it_is_kept_when_told_and_by_the_origins_commands(embed, tmp_path, model, python):
    data = rows(tmp_path / "d.jsonl", leading=RULES)
    dropped, _ = embed(data, name="dropped")
    kept, said = embed(data, "--boilerplate", "keep", name="kept")
    assert "left out" not in said
    assert np.abs(dropped - kept).max() > 0.01
    command = ["-m", "scripts.kat_compute_embeddings_offline", "--prompts_path", data, "--output_dir", tmp_path / "o"]
    ran = python(*command, "--base_model_source", model, "--device", "cpu", env={"KAT_BASE_DIR": str(tmp_path)})
    assert ran.rc == 0, ran.stderr
    np.testing.assert_allclose(np.load(tmp_path / "o" / "embeddings.npy"), kept, atol=1e-6)


def test_later_texts_lose_the_same(embed, tmp_path):
    """A few questions among which nothing could be found are read as the many were."""
    plain, _ = embed(rows(tmp_path / "plain.jsonl"), name="plain")
    embed(rows(tmp_path / "many.jsonl", system=RULES), name="many")
    few = write(
        tmp_path / "few.jsonl",
        jsonl(*(json.loads(line) for line in (tmp_path / "many.jsonl").read_text().splitlines()[:3])),
    )
    alone, _ = embed(few, name="alone")
    alike, said = embed(few, "--boilerplate_of", tmp_path / "many", name="alike")
    assert "left out of 3 texts" in said
    np.testing.assert_allclose(alike, plain[:3], atol=1e-6)
    assert np.abs(alone - alike).max() > 0.01


def test_boilerplate_of_something_else_is_an_error(kat_cli, tmp_path):
    data = rows(tmp_path / "d.jsonl")
    ran = kat_cli("embed", data, "--out", tmp_path / "o", "--boilerplate_of", tmp_path)
    assert "holds no embeddings" in ran.failed()


@pytest.mark.parametrize(("text", "which"), [("opening", 0), ("last", -1)])
def test_a_part_of_the_conversation(embed, tmp_path, text, which):
    data = rows(tmp_path / "d.jsonl", second=True)
    vectors, _ = embed(data, "--text", text, name=text)
    users = [
        [m["content"] for m in json.loads(line)["prefix"]["messages"] if m["role"] == "user"][which]
        for line in data.read_text().splitlines()
    ]
    prompts = write(tmp_path / "p.jsonl", jsonl(*({"id": f"i{i}", "prompt": user} for i, user in enumerate(users))))
    alone, _ = embed(prompts, name="alone")
    np.testing.assert_array_equal(vectors, alone)
    assert json.loads((tmp_path / text / "manifest.json").read_text())["options"]["text"] == text


def test_parts_in_python(model):
    prefix = kat.Prefix("i", [turn("user", "w1 w2"), turn("assistant", "w3"), turn("user", "w4")])
    for text, string in (("opening", "w1 w2"), ("last", "w4"), ("conversation", "w1 w2\nw3\nw4")):
        one, other = (kat.encode([x], model=model, device="cpu", text=text).vectors for x in (prefix, string))
        np.testing.assert_array_equal(one, other)
