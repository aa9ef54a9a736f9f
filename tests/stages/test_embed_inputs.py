"""What `kat embed` reads: several files as one, and conversations that prompts hold inside their text."""

import hashlib
import json

import numpy as np
import pytest
from making import hh, jsonl, md5_id, read_prompts, tiny, turn, write

import kat
from kat.errors import InputError

CHATML = "<|im_start|>{}\n{}<|im_end|>\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"), "Llama", pad_token_id=1)


@pytest.fixture
def embed(kat_cli, tmp_path, model):
    """Run `kat embed`; give the ids, the vectors and what was printed."""

    def run(*data, name="out", more=()):
        out = tmp_path / name
        ran = kat_cli("embed", *data, "--out", out, "--model", model, "--processes", "1", "--device", "cpu", *more)
        assert ran.rc == 0, ran.stderr
        return json.loads((out / "ids.json").read_text()), np.load(out / "embeddings.npy"), ran.stdout

    return run


def rows(start, end):
    return [{"id": f"i{i}", "prompt": f"w{i} w{i * 7 % 90} w20"} for i in range(start, end)]


def test_several_files_are_one(embed, kat_cli, tmp_path):
    one = write(tmp_path / "all.jsonl", jsonl(*rows(0, 30)))
    shards = tmp_path / "shards"
    shards.mkdir()
    parts = [write(shards / f"part-{n}.jsonl", jsonl(*rows(a, b))) for n, a, b in ((2, 0, 11), (10, 11, 30))]
    ids, vectors, _ = embed(one, name="one")
    for name, named in {"files": parts, "folder": [shards], "glob": [shards / "part-*.jsonl"]}.items():
        other_ids, others, _ = embed(*named, name=name)
        assert other_ids == ids
        np.testing.assert_array_equal(others, vectors)
        assert "skipped" in embed(*named, name=name)[2]
        assert "ids in the order of" in kat_cli("verify", tmp_path / name).stdout
        assert kat_cli("density", tmp_path / name, "--out", tmp_path / f"w-{name}").rc == 0
        weights = json.loads((tmp_path / f"w-{name}" / "embeddings_metadata.json").read_text())
        assert all(one["opening"].startswith("w") for one in weights["heaviest"])
        assert "ids in the order of" in kat_cli("verify", tmp_path / f"w-{name}").stdout
    swapped = kat_cli("verify", tmp_path / "files", "--prompts_path", parts[1], "--prompts_path", parts[0])
    assert "Row 0 is i0" in swapped.failed(1)


def test_the_input_is_hashed_as_one_file_alone_is(embed, tmp_path, model, python):
    """A single file is what it was before several could be named, for `kat embed` and the origin's command alike."""
    data = write(tmp_path / "all.jsonl", jsonl(*rows(0, 5)))
    embed(data, name="one")
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    assert manifest["items_path"] == "../all.jsonl"
    assert manifest["inputs"]["items"] == hashlib.sha256(data.read_bytes()).hexdigest()


def test_duplicates_across_files_are_as_in_one(kat_cli, embed, tmp_path):
    first = write(tmp_path / "a.jsonl", jsonl(*rows(0, 3)))
    again = write(tmp_path / "b.jsonl", jsonl(rows(2, 3)[0], *rows(3, 5)))
    other = write(tmp_path / "c.jsonl", jsonl(b"", {"id": "i1", "prompt": "w80"}))
    said = kat_cli("embed", first, again, "--out", tmp_path / "x").failed()
    assert f"repeats the id and opening of an earlier row, first at {again}:1" in said
    ids, _, said = embed(first, again, more=("--max_bad_rows", "1"))
    assert ids == [f"i{i}" for i in range(5)]
    [bad] = [json.loads(line) for line in (tmp_path / "out.rejected.jsonl").read_text().splitlines()]
    assert (bad["file"], bad["line"]) == (str(again), 1)
    said = kat_cli("embed", first, other, "--out", tmp_path / "x", "--max_bad_rows", "all").failed()
    assert f"{first}:2 and {other}:2 share the id i1" in said
    assert "named twice" in kat_cli("embed", first, first, "--out", tmp_path / "x").failed()


def test_prefixes_of_two_units_are_not_embedded_together(kat_cli, tmp_path):
    pairs = write(
        tmp_path / "pairs.jsonl", jsonl(*({"prompt": f"w{i}", "chosen": "a", "rejected": "b"} for i in range(3)))
    )
    for unit in ("opening", "context"):
        assert kat_cli("prefixes", pairs, "--out", tmp_path / f"{unit}.jsonl", "--unit", unit).rc == 0
    both = kat_cli("embed", tmp_path / "opening.jsonl", tmp_path / "context.jsonl", "--out", tmp_path / "x")
    assert "holds openings and contexts" in both.failed()


def test_embeddings_do_not_stand_among_their_own_shards(kat_cli, tmp_path):
    """The folder would be refused from then on, for it would have files of rows in folders below."""
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "a.jsonl", jsonl(*rows(0, 3)))
    assert "part of its own input" in kat_cli("embed", folder, "--out", folder / "embeddings").failed()
    assert [path.name for path in folder.iterdir()] == ["a.jsonl"]


WRITTEN = {
    "ChatML": lambda turns: "".join(CHATML.format(t["role"], t["content"]) for t in turns) + "<|im_start|>assistant\n",
    "HH text": lambda turns: (
        hh(*(("Human" if t["role"] == "user" else "Assistant", t["content"]) for t in turns)) + "\n\nAssistant:"
    ),
    "HH text, no blank line": lambda turns: (
        hh(*(("Human" if t["role"] == "user" else "Assistant", t["content"]) for t in turns)) + "\n\nAssistant:"
    ).lstrip(),
    "JSON": json.dumps,
    "JSON of messages": lambda turns: json.dumps({"messages": turns}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_conversation_inside_a_prompt_is_read_as_messages(embed, kat_cli, tmp_path, name):
    turns = [
        [turn("user", f"w{i} w5"), turn("assistant", f"w{i + 3} w7"), turn("user", f"w{i * 3 % 90}")] for i in range(25)
    ]
    plain = write(tmp_path / "plain.jsonl", jsonl(*({"prompt": each} for each in turns)))
    inside = write(tmp_path / "inside.jsonl", jsonl(*({"prompt": WRITTEN[name](each)} for each in turns)))
    ids, vectors, _ = embed(plain, name="plain")
    assert ids == [md5_id(each[0]["content"]) for each in turns]
    found_ids, found, said = embed(inside, name="inside")
    assert found_ids == ids
    np.testing.assert_array_equal(found, vectors)
    assert "inside a text: read as messages (25 of the first 25 rows)" in said
    assert name.split(",")[0].split()[0] in said
    # What follows reads the prompts in the same way.
    assert kat_cli("density", tmp_path / "inside", "--out", tmp_path / "w", "--prompts_path", inside).rc == 0
    for folder in ("inside", "w"):
        assert "ids in the order of" in kat_cli("verify", tmp_path / folder).stdout
    mapping = kat.load_density_mapping(inside, tmp_path / "w" / "density_weights.npy")
    assert list(mapping) == ids
    assert turns[0][0]["content"] in kat_cli("density", tmp_path / "w", "--explain", ids[0]).stdout


@pytest.mark.parametrize(("shown", "read"), [(100, True), (95, True), (94, False), (1, False)])
def test_nearly_all_prompts_must_show_it(embed, tmp_path, shown, read):
    texts = [CHATML.format("user", f"w{i}") if i < shown else f"w{i} w1" for i in range(100)]
    data = write(tmp_path / "p.jsonl", jsonl(*({"prompt": text} for text in texts)))
    ids, _, said = embed(data)
    assert ids[0] == md5_id("w0" if read else texts[0])
    assert ids[-1] == md5_id("w99" if read and shown == 100 else texts[-1])
    verdict = "read as messages" if read else "left as it is"
    assert f"ChatML inside a text: {verdict} ({shown} of the first 100 rows)" in said
    assert ("texts without ChatML" in said) == (read and shown < 100)


def test_it_is_kept_when_told_and_by_the_origins_commands(embed, tmp_path, model, python):
    """The origin's command gives the bytes of the text as it stands: those of the same strings encoded."""
    import torch

    texts = [CHATML.format("user", f"w{i} w{i * 7 % 90}") for i in range(25)]
    data = write(tmp_path / "p.jsonl", jsonl(*({"prompt": text} for text in texts)))
    raw = kat.encode(texts, model=model, device="cpu").vectors
    ids, kept, said = embed(data, name="kept", more=("--inside_text", "keep"))
    assert "inside a text" not in said
    np.testing.assert_array_equal(kept, raw)
    assert not np.array_equal(embed(data, name="read")[1], raw)
    out = tmp_path / "o.pt"
    ran = python("-m", "scripts.kat_embed", "--data", data, "--out", out, "--model", model, "--device", "cpu")
    assert ran.rc == 0, ran.stderr
    held = torch.load(out, weights_only=True)
    assert held["ids"] == ids == [md5_id(text) for text in texts]
    np.testing.assert_array_equal(held["emb"].numpy(), raw)
    assert "inside_text" not in json.loads((tmp_path / "o.pt.manifest.json").read_text())["options"]


def test_prompts_are_read_raw_unless_told(tmp_path):
    data = write(tmp_path / "p.jsonl", jsonl({"prompt": CHATML.format("user", "q")}))
    assert read_prompts(data).prefixes[0].opening == CHATML.format("user", "q")
    assert read_prompts(data, inside=["ChatML inside a text"]).prefixes[0].opening == "q"
    with pytest.raises(InputError, match="does not have"):
        read_prompts(data, inside=["smoke signals"])
