"""What a model's files say is carried out or said; the oracle is sentence-transformers on models made here."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from making import tiny, turn
from safetensors.torch import save_file

import kat
from kat.embedding import self_check as checks
from kat.errors import InputError, ModelError, OptionError
from kat.models.load import load_model, read_encoder
from kat.models.tokenizer_files import unfulfilled

TEXTS = ["w1 w2 w3 W4", "w7", "w9 w5 w5 w60 w61 w62 w63", "w1 W2"]


KINDS = "sentence_transformers.models."
ACTIVATIONS = "torch.nn.modules.activation."


def sentence_model(
    folder: Path, family: str = "Bert", *, modules=(), pooling="mean_tokens", bert=None, root=None, **more
):
    """A tiny sentence-transformers folder. `modules` are (kind, config, weights) behind the pooling."""
    folder.mkdir(exist_ok=True)
    name = tiny(folder, family, pad_token_id=1, **more)
    rows = [("", "Transformer"), ("1_Pooling", "Pooling")]
    config = {"word_embedding_dimension": 32, f"pooling_mode_{pooling}": True, **(root or {}).pop("pooling", {})}
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    for number, (kind, settings, weights) in enumerate(modules, 2):
        place = folder / f"{number}_{kind}"
        place.mkdir()
        (place / "config.json").write_text(json.dumps(settings))
        if weights:
            save_file(weights, place / "model.safetensors")
        rows.append((place.name, kind))
    said = [{"idx": i, "name": str(i), "path": p, "type": KINDS + k} for i, (p, k) in enumerate(rows)]
    (folder / "modules.json").write_text(json.dumps(said))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 40, **(bert or {})}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {}, **(root or {})}))
    return name


def peer(folder, texts=TEXTS, **how):
    package = pytest.importorskip("sentence_transformers")
    found = package.SentenceTransformer(str(folder), device="cpu").encode(list(texts), show_progress_bar=False, **how)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def ours(folder, texts=TEXTS, **options):
    return kat.encode(list(texts), str(folder), device="cpu", precision="float32", processes=1, **options)


def dense(inside, outside, activation, *, bias=True, **more):
    torch.manual_seed(outside)
    weights = {"linear.weight": torch.randn(outside, inside)}
    if bias:
        weights["linear.bias"] = torch.randn(outside)
    if more.get("use_residual") and inside != outside:
        weights["residual.weight"] = torch.randn(outside, inside)
    config = {"in_features": inside, "out_features": outside, "bias": bias, "activation_function": activation, **more}
    return "Dense", config, weights


NORM = ("LayerNorm", {"dimension": 16}, {"norm.weight": torch.rand(16) + 0.5, "norm.bias": torch.randn(16)})
UNIT = ("Normalize", {}, None)


@pytest.mark.parametrize(
    ("modules", "width"),
    [
        ([dense(32, 16, "torch.nn.modules.activation.Tanh")], 16),
        ([dense(32, 48, "torch.nn.modules.linear.Identity", bias=False), UNIT], 48),
        (
            [dense(32, 16, ACTIVATIONS + "GELU"), NORM, dense(16, 8, ACTIVATIONS + "ReLU")],
            8,
        ),
        ([UNIT, dense(32, 16, "torch.nn.modules.activation.Sigmoid"), UNIT], 16),
        ([dense(32, 32, "torch.nn.modules.activation.Tanh", use_residual=True)], 32),
        ([dense(32, 12, "torch.nn.modules.activation.Tanh", use_residual=True)], 12),
    ],
)
@pytest.mark.parametrize("family", ["Bert", "MPNet"])
def test_modules_behind_the_pooling(tmp_path, modules, width, family):
    folder = sentence_model(tmp_path / "m", family, modules=modules)
    found = ours(folder)
    np.testing.assert_allclose(found.vectors, peer(folder), atol=1e-5)
    assert found.vectors.shape[1] == found.meta["dimension"] == width
    assert read_encoder(folder).dimension == width
    low = kat.encode(TEXTS, folder, device="cpu", precision="bfloat16", processes=1)
    assert (low.vectors * found.vectors).sum(1).min() > 0.98


def test_columns_that_the_files_cut_off(tmp_path):
    folder = sentence_model(tmp_path / "m", root={"truncate_dim": 10})
    np.testing.assert_allclose(ours(folder).vectors, peer(folder), atol=1e-5)


def test_a_dense_module_that_does_not_fit_or_runs_code(tmp_path):
    cases = {
        "other": (dense(16, 8, "torch.nn.Tanh"), "takes vectors of 16 columns; they have 32"),
        "evil": (dense(32, 8, "os.system"), "none of torch.nn's.*kat density FILE.pt"),
        "args": (dense(32, 8, "torch.nn.modules.activation.MultiheadAttention"), "takes arguments that the file lacks"),
        "tokens": (dense(32, 8, "torch.nn.Tanh", module_input_name="token_embeddings"), "module_input_name"),
        "none": (("Dense", dense(32, 8, "torch.nn.Tanh")[1], None), "holds no weights"),
        "width": (
            ("Dense", {**dense(32, 8, "torch.nn.Tanh")[1], "out_features": 9}, dense(32, 8, "")[2]),
            "does not fit",
        ),
        "CNN": (("CNN", {}, None), "has a module CNN; kat applies .*Embed elsewhere.*kat density FILE.pt"),
    }
    for name, (module, message) in cases.items():
        folder = sentence_model(tmp_path / name, modules=[module])
        with pytest.raises(ModelError, match=message):
            ours(folder)


def test_modules_of_their_makers_are_not_run(tmp_path):
    folder = sentence_model(tmp_path / "m")
    file = tmp_path / "m" / "modules.json"
    file.write_text(file.read_text().replace("sentence_transformers.models.Transformer", "custom_st.Transformer"))
    with pytest.raises(ModelError, match=r"custom_st\.Transformer.*never runs.*kat density FILE\.pt"):
        ours(folder)


PROMPTS = {"prompts": {"query": "w11 w12 ", "doc": "w13: ", "empty": None}, "default_prompt_name": "query"}


@pytest.mark.parametrize("family", ["Bert", "MPNet"])
@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "lasttoken"])
@pytest.mark.parametrize("include", [True, False])
def test_prompts(tmp_path, family, pooling, include):
    root = {**PROMPTS, "pooling": {"include_prompt": include}}
    folder = sentence_model(tmp_path / "m", family, pooling=pooling, root=root)
    found = ours(folder)
    np.testing.assert_allclose(found.vectors, peer(folder), atol=1e-5)
    assert found.meta["prompt"] == "w11 w12 "
    np.testing.assert_allclose(ours(folder, prompt_name="doc").vectors, peer(folder, prompt_name="doc"), atol=1e-5)
    for none in ("none", "empty"):
        np.testing.assert_allclose(ours(folder, prompt_name=none).vectors, peer(folder, prompt=""), atol=1e-5)
    with pytest.raises(OptionError, match=r"prompt_name is 'dog'.*query, doc, empty, none"):
        ours(folder, prompt_name="dog")


def test_a_long_text_keeps_its_prompt(tmp_path):
    folder = sentence_model(tmp_path / "m", bert={"max_seq_length": 10}, root=PROMPTS)
    words = [f"w{i}" for i in range(30)]
    tail, head = ours(folder, [" ".join(words)]), ours(folder, [" ".join(words)], long_text="head")
    chunk = ours(folder, [" ".join(words)], long_text="chunk")
    np.testing.assert_allclose(head.vectors, peer(folder, [" ".join(words)]), atol=1e-5)  # which cuts the end off
    np.testing.assert_allclose(tail.vectors, peer(folder, [" ".join(words[-8:])]), atol=1e-5)
    raw = np.stack([raw_mean(folder, ["w11", "w12", *words[a : a + 8]]) for a in range(0, 30, 8)])
    wanted = np.average(raw, axis=0, weights=[8, 8, 8, 6])
    np.testing.assert_allclose(chunk.vectors[0], wanted / np.linalg.norm(wanted), atol=1e-5)
    assert [e.lost.tolist() for e in (tail, head, chunk)] == [[22], [22], [0]]
    with pytest.raises(OptionError, match="max_tokens is 2; with 0 special tokens and 2 of the prompt"):
        ours(folder, max_tokens=2)


def raw_mean(folder, words):
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(" ".join(words), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(ids).last_hidden_state[0].mean(0).numpy()


def test_prompts_stay_out_of_a_chat_template(tmp_path):
    folder = sentence_model(tmp_path / "m", root=PROMPTS)
    (tmp_path / "m" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    asked = [kat.Prefix("x", [turn("user", "w1 w2")])]
    with pytest.warns(UserWarning, match=r"default prompt \(query: 'w11 w12 '\) is left out"):
        found = ours(folder, asked, render="chat")
    np.testing.assert_allclose(found.vectors, peer(folder, ["w1 w2"], prompt=""), atol=1e-5)
    with pytest.raises(OptionError, match="prompt_name is 'doc' and render is chat"):
        ours(folder, asked, render="chat", prompt_name="doc")


def test_a_default_prompt_that_is_not_there(tmp_path):
    folder = sentence_model(tmp_path / "m", root={"prompts": {"a": "b"}, "default_prompt_name": "c"})
    with pytest.raises(ModelError, match="default prompt 'c', but only these prompts: a"):
        ours(folder)


def test_lower_case(tmp_path):
    folder = sentence_model(tmp_path / "m", bert={"do_lower_case": True})
    found = ours(folder, ["W4 w5", "w4 w5"])
    np.testing.assert_allclose(found.vectors, peer(folder, ["W4 w5", "w4 w5"]), atol=1e-5)
    np.testing.assert_array_equal(found.vectors[0], found.vectors[1])
    assert found.meta["lower_case"] is True


@pytest.mark.parametrize(("family", "rows"), [("Roberta", 28), ("Bert", 30), ("MPNet", 28), ("OPT", 30), ("GPT2", 30)])
def test_the_smaller_of_two_limits(tmp_path, family, rows):
    """28 of 30: positions start after the padding index, which is 1. OPT's table has 2 rows on top of its 30."""
    more = {"GPT2": {"n_positions": 30, "n_embd": 32, "n_layer": 2, "n_head": 2}}
    more = more.get(family, {"max_position_embeddings": 30})
    more |= {"ffn_dim": 64, "word_embed_proj_dim": 32} if family == "OPT" else {}
    folder = sentence_model(tmp_path / "m", family, **more)
    with pytest.warns(UserWarning, match=f"max_seq_length 40, but .* room for {rows}: texts are read up to {rows}"):
        found = ours(folder, [" ".join(["w3"] * 100)])
    assert (found.meta["max_tokens"], found.lost.tolist()) == (rows, [100 - rows])
    with pytest.raises(OptionError, match=f"has positions for {rows}"):
        ours(folder, max_tokens=rows + 1)


def test_tokens_that_the_table_has_no_row_for(tmp_path):
    folder = tiny(tmp_path, "Llama", pad_token_id=1)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["late"])
    tokenizer.save_pretrained(folder)
    assert len(ours(folder, ["w1 w2"])) == 1  # a token that no text has does no harm
    with pytest.raises(ModelError, match=r"token 100 \('late'\), and the model's table has 100 rows"):
        ours(folder, ["w1 late"])


def test_code_of_its_makers(tmp_path):
    folder = tiny(tmp_path, "Llama", pad_token_id=1)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "own_code_ignored" not in load_model(folder, device="cpu").meta
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "org/repo--own.Own"}}))
    with pytest.warns(UserWarning, match=r"own code, which kat never runs: .*config\.json names org/repo--own\.Own"):
        assert load_model(folder, device="cpu").meta["own_code_ignored"] is True
    with pytest.warns(UserWarning, match="its own code"):
        assert ours(folder).meta["own_code_ignored"] is True
    strange = config | {"auto_map": {"AutoModel": "own.Own", "AutoConfig": "own.C"}, "model_type": "never_heard_of"}
    (tmp_path / "config.json").write_text(json.dumps(strange))
    for kind in ("encoder", "causal", "reward"):
        with pytest.raises(ModelError, match=r"own\.Own.*never runs.*'never_heard_of'.*kat density FILE\.pt"):
            load_model(folder, kind=kind, device="cpu")


def test_code_of_a_tokenizer(tmp_path):
    folder = tiny(tmp_path, "Llama", pad_token_id=1)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": ["own.Tok", None]}}))
    with pytest.warns(UserWarning, match=r"tokenizer_config\.json names own\.Tok"):
        assert load_model(folder, device="cpu").meta["own_code_ignored"] is True


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"do_lower_case": True}, "do_lower_case true, and it keeps capitals"),
        ({"strip_accents": True}, "strip_accents true, and it keeps accents"),
        ({"add_bos_token": True, "bos_token": "w7"}, "add_bos_token true, and it does not add one"),
        ({"add_eos_token": True, "eos_token": "w8"}, "add_eos_token true, and it does not add one"),
        ({"do_lower_case": False}, None),
        ({"add_eos_token": True}, None),  # there is none to add
    ],
)
def test_what_a_tokenizer_does_not_do(tmp_path, said, message):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    folder = tiny(tmp_path, "Llama", pad_token_id=1)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    backend = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    special = {k: v for k, v in said.items() if k in ("bos_token", "eos_token")}
    found = unfulfilled(tmp_path, PreTrainedTokenizerFast(tokenizer_object=backend, **special))
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


def test_the_bundled_model_has_nothing_to_say():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_encoder("minilm").notes == ()


def test_weights_of_a_pickled_module_count_for_the_digest(tmp_path):
    from kat.models.digests import weights_digest
    from kat.models.sources import resolve

    folder = sentence_model(tmp_path / "m", modules=[dense(32, 8, "torch.nn.Tanh")])
    place = tmp_path / "m" / "2_Dense"
    before = ours(folder).vectors
    torch.save(dense(32, 8, "")[2], place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()
    np.testing.assert_array_equal(ours(folder).vectors, before)
    one = weights_digest(resolve(folder))
    torch.save(dense(32, 8, "")[2] | {"linear.bias": torch.zeros(8)}, place / "pytorch_model.bin")
    assert weights_digest(resolve(folder)) != one


@pytest.fixture
def compared(monkeypatch):
    """Count the comparisons of the self-check."""
    pytest.importorskip("sentence_transformers")
    count, compare = [], checks._compare
    monkeypatch.setattr(checks, "_compare", lambda *given: count.append(1) or compare(*given))
    return count


def test_the_self_check_compares_once_and_warns(tmp_path, compared, monkeypatch):
    from kat.config import EmbedOptions

    good = EmbedOptions(model=sentence_model(tmp_path / "m", root=PROMPTS))
    for _ in range(2):
        assert checks.self_check(good) == pytest.approx(1, abs=1e-5)
    assert len(compared) == 1
    (tmp_path / "m" / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_cls_token": True})
    )
    monkeypatch.setattr("kat.models.sentence_transformer._pooling_name", lambda *_: "mean")  # kat misreads it
    with pytest.warns(UserWarning, match=r"otherwise than sentence-transformers.*cosine.*kat density FILE\.pt"):
        assert checks.self_check(good) < 0.999
    assert len(compared) == 2
    monkeypatch.setenv(checks.SWITCH, "off")
    assert checks.self_check(good) is None
    assert len(compared) == 2


def test_the_self_check_never_fails(tmp_path, compared):
    from kat.config import EmbedOptions

    folder = sentence_model(tmp_path / "m", modules=[("CNN", {}, None)])
    assert checks.self_check(EmbedOptions(model=folder)) is None
    assert checks.self_check(EmbedOptions()) is None  # pinned by its digest, and compared by tests
    assert checks.self_check(EmbedOptions(model=tiny(tmp_path / "plain", "Llama", pad_token_id=1))) is None
    assert len(compared) == 1


def test_a_manifest_names_what_is_read(tmp_path, kat_cli, monkeypatch):
    monkeypatch.setenv(checks.SWITCH, "off")
    folder = sentence_model(tmp_path / "m", root=PROMPTS)
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"id": str(i), "prompt": f"w{i}"}) + "\n" for i in range(5)))

    def embed(out, *more):
        ran = kat_cli("embed", data, "--out", tmp_path / out, "--model", folder, "--precision", "float32", *more)
        assert ran.rc == 0, ran
        return json.loads((tmp_path / out / "manifest.json").read_text())["options"]

    assert embed("a")["reading"] == {"prompt": "w11 w12 "}
    doc = embed("b", "--prompt_name", "doc")
    assert (doc["reading"], doc["prompt_name"]) == ({"prompt": "w13: "}, "doc")
    assert "reading" not in embed("c", "--prompt_name", "none")
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "m" / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {}}))
    assert {"reading", "prompt_name", "max_unknown"}.isdisjoint(embed("d"))


STRANGE = ["при вет всем", "w1 w2", "w3 x", "漢字 漢字", "", " \n "]


def test_unknown_tokens_are_counted_by_script(tmp_path):
    folder = tiny(tmp_path, "Llama", pad_token_id=1)
    with pytest.warns(UserWarning, match=r"2 of 6 texts \(33\.3%\).*CYRILLIC 1 \(100% unknown\), CJK 1.*multilingual"):
        meta = ours(folder, STRANGE).meta
    assert meta["unread"] == {
        "empty_texts": 2,
        "unknown_tokens": 3 + 1 + 2,
        "mostly_unknown_texts": 2,
        "mostly": 0.5,
        "scripts": {"CYRILLIC": {"texts": 1, "unknown_share": 1.0}, "CJK": {"texts": 1, "unknown_share": 1.0}},
    }
    with pytest.raises(InputError, match=r"--max_unknown \(it is 0\.4\)"):
        ours(folder, STRANGE, max_unknown=0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "unread" not in ours(folder, ["w1", "w2"]).meta
        few = ours(folder, ["w1"] * 199 + ["шум"], max_unknown=0.5).meta["unread"]  # under 1 % of the texts
        assert ours(folder, ["при w1"], max_unknown=0.5).meta["unread"] == {"unknown_tokens": 1}  # a half is not more
    assert few["mostly_unknown_texts"] == 1
    with pytest.raises(OptionError, match="max_unknown is 2"):
        ours(folder, max_unknown=2)


def test_a_byte_level_tokenizer_knows_every_text(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tiny(tmp_path, "Llama", pad_token_id=1)
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet())[:99])}
    backend = Tokenizer(models.BPE(letters, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    assert "unknown_tokens" not in ours(folder, ["abc", "def"]).meta.get("unread", {})


def test_a_command_says_and_stores_it(tmp_path, kat_cli):
    folder = tiny(tmp_path / "m", "Llama", pad_token_id=1)
    data, out = tmp_path / "d.jsonl", tmp_path / "o"
    data.write_text("".join(json.dumps({"id": str(i), "prompt": t}) + "\n" for i, t in enumerate(STRANGE[:4])))
    ran = kat_cli("embed", data, "--out", out, "--model", folder, "--precision", "float32")
    assert ran.rc == 0, ran
    assert "2 texts are unknown to the model for more than 50%: CYRILLIC 1 (100% unknown), CJK 1" in ran.stdout
    assert "6 tokens are unknown" in ran.stdout
    assert json.loads((out / "manifest.json").read_text())["unread"]["unknown_tokens"] == 6
    refused = kat_cli("embed", data, "--out", tmp_path / "p", "--model", folder, "--max_unknown", "0.5")
    assert "CYRILLIC" in refused.failed()


def test_a_template_that_refuses_is_asked_again(tmp_path):
    folder = tiny(tmp_path, "Llama", pad_token_id=1)
    (tmp_path / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}w1 {{ m.content }} {% endfor %}"
    )
    asked = [kat.Prefix("x", [turn("system", "w3"), turn("user", "w4")])]
    found = ours(folder, asked, render="chat")
    np.testing.assert_array_equal(found.vectors, ours(folder, ["w1 w3\n\nw4 "]).vectors)


def test_the_list_of_models_says_whose_code_is_not_run(tmp_path, monkeypatch):
    from kat.models import catalog
    from kat.models.sources import Found, Source

    folder = Path(tiny(tmp_path / "m", "Llama", pad_token_id=1))
    row = Source(name="x", help="", find=None, catalog=lambda: iter([Found("mine", folder, 5)]))
    monkeypatch.setattr(catalog, "all_sources", lambda: [row])
    assert catalog.found_models()[0].note == ""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "own.Own"}}))
    assert catalog.found_models()[0].note == "names code of its own, which kat never runs: own.Own"
