"""nanochat's checkpoints of every format version against a plain implementation, and everything that can be wrong."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from making import turn
from making_nanochat import CONFIG, LATER, later_logits, later_state, plain_logits, random_state, save

import kat
from kat.errors import ModelError
from kat.models.load import load_model
from kat.models.nanochat.checkpoint import find_checkpoint
from kat.models.nanochat.tokenizer import SPECIAL
from kat.packing.switch import hidden_states, switch_over

IDS = torch.tensor([258, 5, 77, 200, 13, 14, 15, 256])


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_logits_are_those_of_the_plain_model(base_dir, padded, prefix):
    state = random_state(padded=padded)
    save(base_dir, state, prefix=prefix)
    found = load_model("sft", kind="causal", device="cpu")
    with torch.no_grad():
        logits = found.model(IDS[None]).logits[0]
    wanted = plain_logits(state, CONFIG, IDS)
    assert logits.shape == wanted.shape
    off = (logits - wanted).abs().max().item()
    print(f"largest difference of a logit {off:.1e}, of {wanted.abs().max():.1f}")
    assert off < 1e-4
    assert (found.meta["age"], found.meta["format"]) == ("2025-10", "nanochat")
    assert found.limit == 64


def test_padding_and_packing_change_nothing(base_dir):
    state = random_state()
    save(base_dir, state)
    texts = [IDS.numpy(), IDS.numpy()[:3], np.asarray([9, 8, 7, 6, 5])]
    wanted = [plain_logits(state, CONFIG, torch.from_numpy(t.copy()), hidden=True) for t in texts]
    model = load_model("sft", device="cpu").model
    with torch.no_grad():
        ids, mask = torch.zeros(3, 8, dtype=torch.long), torch.zeros(3, 8, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)], mask[row, : len(text)] = torch.from_numpy(text.copy()), 1
        padded = model(input_ids=ids, attention_mask=mask).last_hidden_state
        for row, one in enumerate(wanted):
            torch.testing.assert_close(padded[row, : len(one)], one, rtol=0, atol=1e-4)
        assert switch_over(model, 64) is None
        packed, layout = hidden_states(model, texts)
        for start, one in zip(layout.bounds.tolist(), wanted, strict=False):
            torch.testing.assert_close(packed[start : start + len(one)], one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [1, 8, 300, 512, 513, 514, 700])
def test_the_next_format_version_gives_what_its_plain_model_gives(base_dir, padded, length):
    """From 130 tokens on the short windows leave keys out, from 514 on the long ones of 513."""
    state = later_state(LATER, padded)
    save(base_dir, state, LATER)
    found = load_model("sft", kind="causal", device="cpu")
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 267, length))
    with torch.no_grad():
        logits = found.model(ids[None]).logits[0]
    wanted = later_logits(state, LATER, ids)
    off = (logits - wanted).abs().max().item()
    print(f"{length} tokens: largest difference of a logit {off:.1e}, of {wanted.abs().max():.1f}")
    assert off < 1e-4
    assert found.meta["age"] == "2026-03"


def test_the_next_format_version_padded_packed_and_cached(base_dir):
    state = later_state(LATER)
    save(base_dir, state, LATER)
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 267, n) for n in (200, 7, 1, 64)]
    wanted = [later_logits(state, LATER, torch.from_numpy(t), hidden=True) for t in texts]
    causal = load_model("sft", kind="causal", device="cpu").model
    model = load_model("sft", device="cpu").model
    with torch.no_grad():
        for side in ("right", "left"):
            ids, mask = torch.zeros(4, 200, dtype=torch.long), torch.zeros(4, 200, dtype=torch.long)
            for row, text in enumerate(texts):
                place = slice(0, len(text)) if side == "right" else slice(200 - len(text), 200)
                ids[row, place], mask[row, place] = torch.from_numpy(text), 1
            padded = model(input_ids=ids, attention_mask=mask).last_hidden_state
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            placed = model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
            for row, one in enumerate(wanted):
                place = slice(0, len(one)) if side == "right" else slice(200 - len(one), 200)
                torch.testing.assert_close(placed[row, place], one, rtol=0, atol=1e-4)
                if side == "right":
                    torch.testing.assert_close(padded[row, place], one, rtol=0, atol=1e-4)
        ids = torch.from_numpy(texts[0])[None]
        whole = causal(ids, use_cache=False).logits
        step = causal(ids[:, :150], use_cache=True)
        parts = [step.logits]
        for i in range(150, 200):
            step = causal(ids[:, i : i + 1], past_key_values=step.past_key_values, use_cache=True)
            parts.append(step.logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-4)
        assert switch_over(model, 512) is None
        packed, layout = hidden_states(model, texts)
        for start, one in zip(layout.bounds.tolist(), wanted, strict=False):
            torch.testing.assert_close(packed[start : start + len(one)], one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_text_over_the_context_padded_packed_and_cached(base_dir, attention):
    state = later_state(LATER)
    save(base_dir, state, LATER)
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, 267, n) for n in (600, 530, 9)]
    wanted = [later_logits(state, LATER, torch.from_numpy(t), hidden=True) for t in texts]
    causal = load_model("sft", kind="causal", device="cpu").model
    causal.set_attn_implementation(attention)
    ids, mask = torch.zeros(3, 600, dtype=torch.long), torch.zeros(3, 600, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = torch.from_numpy(text), 1
    whole = torch.from_numpy(texts[0])[None]
    with torch.no_grad():
        padded = causal.model(input_ids=ids, attention_mask=mask).last_hidden_state
        for row, one in enumerate(wanted):
            torch.testing.assert_close(padded[row, : len(one)], one, rtol=0, atol=1e-4)
        step = causal.model(whole[:, :505], use_cache=True)
        parts = [step.last_hidden_state]
        for start, stop in [(505, 512), *((i, i + 1) for i in range(512, 520)), (520, 600)]:
            step = causal.model(whole[:, start:stop], past_key_values=step.past_key_values, use_cache=True)
            parts.append(step.last_hidden_state)
        torch.testing.assert_close(torch.cat(parts, 1)[0], wanted[0], rtol=0, atol=1e-4)
        model = load_model("sft", device="cpu").model
        assert switch_over(model, 600) is None
        packed, layout = hidden_states(model, texts)
        for start, one in zip(layout.bounds.tolist(), wanted, strict=False):
            torch.testing.assert_close(packed[start : start + len(one)], one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("version", ["2025-10", "2026-03"])
def test_a_reward_is_the_head_on_the_last_tokens_state(base_dir, tmp_path, version):
    state, config = (random_state(), CONFIG) if version == "2025-10" else (later_state(LATER), LATER)
    save(base_dir, state, config)
    logits = plain_logits if version == "2025-10" else later_logits
    reward = load_model("sft", kind="reward", device="cpu")
    assert (reward.meta["head"], reward.meta["age"]) == ("new", version)
    texts = [torch.tensor([258, 5, 77, 200]), torch.tensor([258, 9, 9, 8, 7, 6, 265])]
    ids = torch.full((2, 7), reward.tokenizer.pad_token_id)
    mask = torch.zeros(2, 7, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    head = reward.model.score.weight.detach()
    wanted = torch.stack([logits(state, config, text, hidden=True)[-1] @ head.T for text in texts])
    with torch.no_grad():
        torch.testing.assert_close(reward.model(ids, attention_mask=mask).logits, wanted, rtol=0, atol=1e-4)
    reward.model.save_pretrained(tmp_path / "rm")
    reward.tokenizer.save_pretrained(tmp_path / "rm")
    again = load_model(str(tmp_path / "rm"), kind="reward", device="cpu")
    assert again.meta["head"] == "loaded"
    with torch.no_grad():
        torch.testing.assert_close(again.model(ids, attention_mask=mask).logits, wanted, rtol=0, atol=1e-4)


DOCUMENTED = """
import sys, torch, transformers
{register}
folder, rounded = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "hi"}}], return_tensors="pt", return_dict=True)
assert ids["input_ids"][0, 0] == tokenizer.bos_token_id
with torch.no_grad():
    print(model(torch.arange(300)[None] % 267).logits[0, -1].tolist())
"""


def test_a_converted_folder_loads_in_transformers_as_documented(base_dir, python, tmp_path):
    """With the line that docs/models.md gives, in a process that has imported nothing of kat before."""
    state = later_state(LATER)
    save(base_dir, state, LATER)
    register = "from kat.models.nanochat.modeling import register\n\nregister()"
    assert register in (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    script = tmp_path / "load.py"
    script.write_text(DOCUMENTED.format(register=register))
    ran = python(script, load_model("sft", kind="causal", device="cpu").meta["path"], "yes")
    assert ran.rc == 0, ran.stderr
    wanted = later_logits(state, LATER, torch.arange(300) % 267)[-1]
    torch.testing.assert_close(torch.tensor(json.loads(ran.stdout)), wanted, rtol=0, atol=1e-4)


def test_the_model_that_nanochat_takes_where_none_is_named(base_dir):
    """Its rule: `re.match(r"d(\\d+)", name)`, the deepest; where no name matches, the folder changed last."""
    folder, pickled = base_dir / "chatsft_checkpoints", base_dir / "tokenizer" / "tokenizer.pkl"
    for n, tag in enumerate(["zeta", "alpha", "d4", "d12_long", "d9", "xd40"]):
        save(base_dir, random_state(), tag=tag)
        os.utime(folder / tag, (1000 - n, 1000 - n))

    def nanochats(names):
        depths = [(int(m[1]), name) for name in names if (m := re.match(r"d(\d+)", name))]
        return max(depths)[1] if depths else max(names, key=lambda name: (folder / name).stat().st_mtime)

    def taken():
        return find_checkpoint(folder, pickled).model.parent.name

    for gone in (None, "d12_long", "d9", "d4", "zeta"):
        if gone:
            shutil.rmtree(folder / gone)
        assert taken() == nanochats([p.name for p in folder.iterdir()]), gone
    save(base_dir, random_state(), tag="d3_again")
    save(base_dir, random_state(), tag="d3")
    os.utime(folder / "d3_again", (9e8, 9e8))
    assert taken() == "d3"  # of one depth the plain name


def test_missing_data_is_said_before_a_checkpoint_is_converted(base_dir, tmp_path, python):
    save(base_dir, random_state())
    how = ("--ckpt_source", "sft", "--data", tmp_path / "none.jsonl", "--out", tmp_path / "e.pt")
    ran = python("-m", "scripts.kat_embed", *how)
    assert (ran.rc, "none.jsonl does not exist" in ran.stderr) == (2, True)
    assert "converts" not in ran.stderr
    assert not (base_dir / "models").exists()


def test_missing_and_wrong_small_files_are_said_before_the_model_is_read(base_dir, monkeypatch):
    save(base_dir, random_state())

    def read(*_):
        raise AssertionError("the model was read")

    monkeypatch.setattr("kat.models.nanochat.checkpoint.sha256_file", read)
    monkeypatch.setattr("kat.models.nanochat.checkpoint._loaded", read)
    tokenizer = base_dir / "tokenizer" / "tokenizer.pkl"
    pickled = tokenizer.read_bytes()
    tokenizer.write_bytes(pickled[:50])
    refused(r"tokenizer\.pkl is no tokenizer of nanochat")
    tokenizer.unlink()
    refused(r"tokenizer\.pkl is not there")
    tokenizer.write_bytes(pickled)
    meta = base_dir / "chatsft_checkpoints" / "d3" / "meta_000010.json"
    meta.write_text("{")
    refused(r"meta_000010\.json is no meta")
    meta.unlink()
    refused(r"meta_000010\.json is not there")


def test_format_versions_between_are_called_by_their_names(base_dir):
    later = later_state(CONFIG)
    early = {n: t for n, t in later.items() if not n.startswith(("smear", "backout"))}
    save(base_dir, early, CONFIG)
    refused(
        "is nanochat of early 2026-03: ve_gate has 12 inputs, and there is no smear_gate.*kat reads 2025-10.*2026-03"
    )
    wide = {n: torch.ones(2, 32) if "ve_gate" in n else t for n, t in early.items()}
    save(base_dir, wide, CONFIG)
    refused(
        r"is nanochat of 2026-01 to early 2026-03: transformer.h.0.attn.ve_gate.weight is \[2, 32\], a gate of 32 input"
    )
    scalars = {n: t for n, t in early.items() if "ve_gate" not in n and not n.startswith("value_embeds")}
    save(base_dir, scalars, CONFIG)
    refused("is nanochat of early 2026-01: there are resid_lambdas, and no value_embeds")
    # nanochat's GPT.forward of 2026-08 has a backout and no smear: it is not the model of early 2026-03.
    smearless = {n: t for n, t in later.items() if not n.startswith("smear")}
    save(base_dir, smearless, CONFIG)
    refused("is nanochat of 2026-08: there is a backout_lambda, and no smear_gate.*kat reads 2025-10.*2026-03")
    # With one half of the smear it is of no format version, but a model that lacks a weight.
    save(base_dir, smearless | {"smear_lambda": torch.ones(1)}, CONFIG)
    refused("nearest to nanochat of 2026-03, lacks 1 of its weights, first smear_gate.weight")


def test_what_a_meta_says_and_no_weight_shows_is_refused(base_dir):
    # The same tensors with another window are another model, which no key and no shape tells.
    save(base_dir, later_state(LATER), LATER | {"short_seq_len": 512})
    refused("is of nanochat of 2026-08: its model_config has short_seq_len.*kat reads 2025-10.*2026-03")
    save(base_dir, random_state(), CONFIG | {"softcap": 20, "rope_base": 10_000})
    refused("model_config has rope_base, softcap, which no nanochat .*take it out of meta_000010.json")
    save(base_dir, random_state(), CONFIG | {"window_pattern": "SSSL"})
    refused("has the weights of nanochat of 2025-10, and its meta a window_pattern of 'SSSL', which came with resid_")
    save(base_dir, random_state(), CONFIG | {"window_pattern": "L"})
    assert load_model("sft", device="cpu").meta["age"] == "2025-10"


def test_where_later_nanochats_save_is_said(base_dir):
    (base_dir / "experiments" / "default" / "d12" / "chat").mkdir(parents=True)
    refused("chatsft_checkpoints does not exist, and .*experiments is where nanochat of 2026-08 saves. kat reads 2025")
    save(base_dir, random_state())
    assert load_model("sft", device="cpu").meta["age"] == "2025-10"


def test_the_next_format_version_embeds_rewards_and_saves(base_dir, tmp_path):
    save(base_dir, later_state(LATER), LATER)
    found = kat.encode(["the prompt", "another, longer prompt " * 9], model="sft", precision="float32", device="cpu")
    assert found.vectors.shape == (2, 48)
    ids = torch.tensor([load_model("sft", device="cpu").tokenizer("the prompt", add_special_tokens=False)["input_ids"]])
    mean = later_logits(later_state(LATER), LATER, ids[0], hidden=True).mean(0)
    np.testing.assert_allclose(found.vectors[0], (mean / mean.norm()).numpy(), atol=1e-4)
    low = kat.encode(["the prompt", "another, longer prompt " * 9], model="sft", precision="bfloat16", device="cpu")
    assert (low.vectors * found.vectors).sum(1).min() > 0.99
    reward = load_model("sft", kind="reward", device="cpu")
    assert reward.meta["head"] == "new"
    reward.model.save_pretrained(tmp_path / "rm")
    reward.tokenizer.save_pretrained(tmp_path / "rm")
    again = load_model(str(tmp_path / "rm"), kind="reward", device="cpu")
    assert again.meta["head"] == "loaded"
    with torch.no_grad():
        torch.testing.assert_close(again.model(ids).logits, reward.model(ids).logits)


def test_the_deepest_model_and_the_last_step_by_number(base_dir):
    deep = CONFIG | {"n_layer": 12}
    save(base_dir, random_state(), tag="d3", step=2)
    save(base_dir, random_state(deep, seed=1), deep, tag="d12", step=900)
    save(base_dir, random_state(deep, seed=2), deep, tag="d12", step=1000)
    (base_dir / "chatsft_checkpoints" / "d12" / "model_005000_backup.pt").write_bytes(b"")
    folder, pickled = base_dir / "chatsft_checkpoints", base_dir / "tokenizer" / "tokenizer.pkl"
    found = find_checkpoint(folder, pickled)
    assert (found.model.parent.name, found.step) == ("d12", 1000)
    assert find_checkpoint(folder, pickled, "d3").step == 2
    assert find_checkpoint(folder, pickled, step=900).step == 900
    with pytest.raises(ModelError, match="holds no model d7; it holds d3, d12"):
        find_checkpoint(folder, pickled, "d7")
    with pytest.raises(ModelError, match="holds no step 5; it holds 900, 1000"):
        find_checkpoint(folder, pickled, step=5)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("base", "base_checkpoints"),
        ("mid", "mid_checkpoints"),
        ("sft", "chatsft_checkpoints"),
        ("rl", "chatrl_checkpoints"),
        ("rm", "rm_checkpoints/uniform"),
        ("rm_density", "rm_checkpoints/density"),
        ("grpo", "grpo_checkpoints/uniform"),
        ("grpo_density", "grpo_checkpoints/density"),
    ],
)
def test_every_name_has_its_folder(base_dir, name, family):
    save(base_dir, random_state(), family=family)
    assert load_model(name, device="cpu").dimension == 48


def test_the_origins_commands_embed_with_it(base_dir, tmp_path, python):
    save(base_dir, random_state())
    save(base_dir, random_state(seed=4), family="base_checkpoints")
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps({"id": f"i{i}", "prompt": f"the prompt {i}"}) + "\n" for i in range(30)))
    ran = python("-m", "scripts.kat_embed", "--ckpt_source", "sft", "--data", items, "--out", tmp_path / "e.pt")
    assert ran.rc == 0, ran.stderr
    found = torch.load(tmp_path / "e.pt", weights_only=True)
    assert found["emb"].shape == (30, 48)
    out = tmp_path / "offline"
    how = ("--base_model_source", "base", "--prompts_path", items, "--output_dir", out)
    ran = python("-m", "scripts.kat_compute_embeddings_offline", *how)
    assert ran.rc == 0, ran.stderr
    assert np.load(out / "density_weights.npy").shape == (30,)
    mean = plain_logits(random_state(), CONFIG, torch.tensor(kat_tokens("the prompt 0")), hidden=True).mean(0)
    np.testing.assert_allclose(found["emb"][0], (mean / mean.norm()).numpy(), atol=0.02)  # bfloat16 where it is faster


def kat_tokens(text: str) -> list[int]:
    return load_model("sft", device="cpu").tokenizer(text, add_special_tokens=False)["input_ids"]


def test_it_chats_as_nanochat_does(base_dir):
    save(base_dir, random_state())
    chat = load_model("sft", kind="causal", device="cpu").chat
    ids = chat.render([turn("user", "hi")])
    special = {name: 258 + i for i, name in enumerate(SPECIAL)}
    before, after = ("<|bos|>", "<|user_start|>"), ("<|user_end|>", "<|assistant_start|>")
    wanted = [*(special[name] for name in before), *b"hi", *(special[name] for name in after)]
    assert ids == wanted


def test_it_is_converted_once(base_dir, capsys):
    save(base_dir, random_state())
    first = load_model("sft", device="cpu").meta["path"]
    assert "converts" in capsys.readouterr().err
    assert load_model("sft", device="cpu").meta["path"] == first
    assert capsys.readouterr().err == ""
    save(base_dir, random_state(seed=9))
    assert load_model("sft", device="cpu").meta["path"] != first


def refused(match: str) -> None:
    with pytest.raises(ModelError, match=match):
        load_model("sft", kind="causal", device="cpu")


def test_what_is_wrong_is_named(base_dir):
    refused("chatsft_checkpoints does not exist.*--ckpt_source minilm")
    folder = base_dir / "chatsft_checkpoints" / "d3"
    folder.mkdir(parents=True)
    refused(r"d3 holds no step ; it holds no model_<step>\.pt")
    state = random_state()
    save(base_dir, state)
    model, meta = folder / "model_000010.pt", folder / "meta_000010.json"
    whole = model.read_bytes()
    meta.rename(folder / "meta_000009.json")
    refused(r"meta_000010\.json is not there.*there is meta_000009\.json")
    meta.write_text("{}")
    refused(r"meta_000010\.json is no meta of a nanochat model")
    meta.write_text(json.dumps({"model_config": CONFIG | {"n_layer": 0}}))
    refused("not all whole numbers above 0")
    meta.write_text(json.dumps({"model_config": CONFIG | {"n_embd": 64}}))
    refused(r"model_000010\.pt: transformer\.wte\.weight is \[300, 48\], and .* has \[300, 64\]")
    meta.write_text(json.dumps({"model_config": CONFIG | {"n_layer": 4}}))
    refused("lacks 6 of its weights, first transformer.h.3")
    meta.write_text(json.dumps({"model_config": CONFIG | {"vocab_size": 260}}))
    save(base_dir, random_state(CONFIG | {"vocab_size": 260}), CONFIG | {"vocab_size": 260})
    refused("has 267 tokens, and .* a vocabulary of 260: they do not belong together")
    save(base_dir, state)
    model.write_bytes(whole[: len(whole) // 2])
    refused(r"model_000010\.pt (cannot be read|is damaged)")
    save(base_dir, state | {"transformer.h.0.attn.rope": torch.ones(2)})
    refused(
        "no format version that kat knows: nearest to 2025-10, with 1 unknown keys, first transformer.h.0.attn.rope"
    )
    save(base_dir, state | {"resid_lambdas": torch.ones(3), "value_embeds.0.weight": torch.ones(300, 24)})
    refused("nearest to nanochat of 2026-03, lacks .* first backout_lambda; is it of another format version")
    between = later_state() | {"transformer.h.0.attn.ve_gate.weight": torch.ones(2, 32)}
    save(base_dir, between, CONFIG)
    refused(r"is nanochat of 2026-01 to early 2026-03: .*ve_gate\.weight is \[2, 32\], a gate of 32 inputs")
    save(base_dir, later_state() | {"transformer.h.0.attn.ve_gate.weight": torch.ones(2, 16)}, CONFIG)
    refused(r"ve_gate\.weight is \[2, 16\], and nanochat of 2026-03 with its meta has \[2, 12\]")
    save(base_dir, later_state() | {"mtp_heads.0.mlp.c_fc.weight": torch.ones(2, 2)}, CONFIG)
    refused("no format version that kat knows: nearest to 2026-03, with 1 unknown keys, first mtp_heads")
    save(base_dir, later_state(), CONFIG | {"window_pattern": "SXL"})
    refused("window_pattern is 'SXL'; expected letters S and L")
    save(base_dir, state)
    os.remove(base_dir / "tokenizer" / "tokenizer.pkl")
    refused(r"tokenizer\.pkl is not there")
    assert not list((base_dir / "models").glob("*/*")) if (base_dir / "models").exists() else True


def test_a_checkpoint_that_would_run_something_is_refused(base_dir, tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    save(base_dir, random_state())
    torch.save({"transformer.wte.weight": Evil()}, base_dir / "chatsft_checkpoints" / "d3" / "model_000010.pt")
    refused("a pickle of more than tensors, which is never run")
    assert not marker.exists()
    with pytest.raises(ModelError):
        kat.encode(["a"], model="sft")
    assert not marker.exists()
