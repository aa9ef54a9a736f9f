"""The encoder against plain per-text transformers."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import kat
from kat import plugins
from kat.embedding import encoder as encoders
from kat.embedding import workers
from kat.embedding.pooling import Pooling, normalise, pool, pool_packed
from kat.embedding.pooling.mean import segment_means
from kat.errors import InputError, OptionError
from kat.executors import worker
from kat.executors.base import Executor
from kat.models.sources import resolve
from kat.packing.layout import Layout

TEXTS = [
    "How do I mend a bicycle tyre?",
    "bread",
    "",
    "naïve café — “quotes”, 日本語, and emoji 🚲",
    "one two three four five six seven eight nine ten " * 12,
    "a\0b",
    "   spaces   \n\n and lines \t",
    "long " * 2000,
    "bread",
]


@pytest.fixture(scope="module")
def plain():
    """Per-text vectors by transformers alone: no batch, no padding."""
    from transformers import AutoModel, AutoTokenizer

    path = resolve("minilm").path
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()

    def raw(ids: list[int]) -> np.ndarray:
        with torch.inference_mode():
            ids = [tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]
            return model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()

    def vectors(texts: list[str], limit: int = 256) -> np.ndarray:
        ids = [tokenizer(t, add_special_tokens=False, truncation=False)["input_ids"] for t in texts]
        found = np.stack([raw(i[-(limit - 2) :]) for i in ids])
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    vectors.raw = raw
    return vectors


def resolve_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve("minilm").path, local_files_only=True)


def test_equals_plain_transformers_text_by_text(plain):
    found = kat.encode(TEXTS, precision="float32")
    np.testing.assert_allclose(found.vectors, plain(TEXTS), atol=1e-5)
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)


def test_bfloat16_stays_close(plain):
    found = kat.encode(TEXTS, precision="bfloat16")
    assert (found.vectors * plain(TEXTS)).sum(1).min() >= 0.9995
    assert found.vectors.dtype == np.float32


def test_order_batch_and_company_do_not_matter():
    together = kat.encode(TEXTS, precision="float32").vectors
    backwards = kat.encode(TEXTS[::-1], precision="float32", batch_size=2).vectors[::-1]
    alone = np.concatenate([kat.encode([t], precision="float32").vectors for t in TEXTS])
    np.testing.assert_allclose(backwards, together, atol=1e-5)
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_same_text_same_vector():
    found = kat.encode(TEXTS, precision="bfloat16")
    assert (found.vectors[1] == found.vectors[8]).all()


def test_sentence_transformers_agrees():
    peers = pytest.importorskip("sentence_transformers")
    model = peers.SentenceTransformer(str(resolve("minilm").path), device="cpu")
    short = [t for t in TEXTS if len(t) < 1000]
    np.testing.assert_allclose(
        kat.encode(short, precision="float32").vectors, model.encode(short, normalize_embeddings=True), atol=1e-5
    )


def test_long_texts_keep_the_end_and_are_counted(plain, capsys):
    words = [f"w{i}" for i in range(600)]
    text = " ".join(words)
    tail = kat.encode([text], precision="float32", max_tokens=50)
    head = kat.encode([text], precision="float32", max_tokens=50, long_text="head")
    np.testing.assert_allclose(tail.vectors, plain([text], 50), atol=1e-5)
    assert np.abs(tail.vectors - head.vectors).max() > 0.01
    assert tail.lost[0] == tail.tokens[0] - 50
    assert capsys.readouterr().err.count("1 of 1 texts were cut off: 50 tokens of a text are read") == 2
    assert kat.encode(["short"]).lost.tolist() == [0]
    assert "cut off" not in capsys.readouterr().err


def test_a_prefix_is_its_contents_joined_by_newlines():
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    messages.append({"role": "user", "content": "bye"})
    found = kat.encode([kat.Prefix("x1", messages), "hi\nhello\nbye"], precision="float32")
    assert found.ids == ["x1", "1"]
    assert (found.vectors[0] == found.vectors[1]).all()


def test_pooling_reads_through_the_mask():
    hidden = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    packed, layout = hidden[mask.bool()], Layout(np.asarray([3, 5, 1]))
    for how in ("mean", "cls", "last"):
        garbage = hidden.clone()
        garbage[mask == 0] = torch.nan
        torch.testing.assert_close(pool(garbage, mask, how), pool(hidden, mask, how))
        torch.testing.assert_close(pool_packed(packed, layout, how), pool(hidden, mask, how))
    torch.testing.assert_close(segment_means(packed, layout), pool(hidden, mask, "mean"))
    torch.testing.assert_close(pool(hidden, mask, "mean")[0], hidden[0, :3].mean(0))
    torch.testing.assert_close(pool(hidden, mask, "last")[0], hidden[0, 2])
    torch.testing.assert_close(pool(hidden, mask, "cls")[2], hidden[2, 0])


def test_an_unknown_pooling_is_refused():
    hidden, mask = torch.zeros(1, 2, 3), torch.ones(1, 2)
    for call in (lambda: pool(hidden, mask, "max"), lambda: pool_packed(hidden[0], Layout(np.asarray([2])), "max")):
        with pytest.raises(OptionError, match="pooling is 'max'; expected cls, last, mean"):
            call()


def test_the_poolings_are_the_files_of_the_folder():
    assert plugins.names(plugins.POOLINGS) == ("cls", "last", "mean")
    for name, row in plugins.load_all(plugins.POOLINGS).items():
        assert isinstance(row, Pooling)
        assert row.name == name


class Fake:
    """An executor in this process that gives results in the opposite order."""

    def __init__(self, function, settings, threads):
        self.computes, self.facts = zip(*(worker.resolve(function)(values, []) for values in settings), strict=True)
        self.done = 0

    @property
    def count(self):
        return len(self.computes)

    def run(self, tasks):
        for number, arrays in reversed(list(tasks)):
            self.done += 1
            yield number, self.computes[number % self.count](arrays)

    def close(self):
        self.computes = ()


def test_any_executor_will_do(monkeypatch):
    monkeypatch.setattr(encoders, "WORTHWHILE", 0)
    monkeypatch.setattr(workers, "Workers", Fake)
    with kat.Encoder("minilm", precision="float32", processes=2, batch_size=2) as encoder:
        vectors = encoder.encode(TEXTS).vectors
        fake = encoder._workers
        assert isinstance(fake, Executor)
        assert fake.done > 2
    assert fake.count == 0
    np.testing.assert_allclose(vectors, kat.encode(TEXTS, precision="float32", processes=1).vectors, atol=1e-5)


def test_the_home_of_encode_loads_no_torch():
    code = "import sys, kat.embedding.encoder; assert not {'torch', 'transformers', 'tqdm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_vectors_get_unit_length_in_place():
    vectors = np.asarray([[3, 4], [0, 0], [1e-3, 0]], np.float32)
    normalise(vectors)
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0], [1, 0]], atol=1e-7)


def test_a_chunked_text_is_the_mean_of_its_pieces_by_tokens(plain):
    ids = np.random.default_rng(0).integers(2000, 3000, 70)
    words = resolve_tokenizer().convert_ids_to_tokens(ids.tolist())
    words = [w for w in words if w.isalpha()][:50]
    text = " ".join(words)
    pieces = resolve_tokenizer()(text, add_special_tokens=False)["input_ids"]
    found = kat.encode([text, "short"], precision="float32", max_tokens=22, long_text="chunk")
    parts = [pieces[i : i + 20] for i in range(0, len(pieces), 20)]
    raw = [plain.raw(part) for part in parts]
    mean = sum(len(p) * r for p, r in zip(parts, raw, strict=True)) / len(pieces)
    assert len(parts) > 2
    np.testing.assert_allclose(found.vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(found.vectors[1], plain(["short"])[0], atol=1e-5)
    assert found.lost.tolist() == [0, 0]
    assert found.tokens[0] == len(pieces) + 2


@pytest.mark.parametrize("long_text", ["tail", "head", "chunk"])
def test_four_hundred_thousand_characters(long_text, plain):
    text = "words and more words \0" * 20_000
    found = kat.encode([text, "a"], precision="bfloat16", long_text=long_text)
    assert np.isfinite(found.vectors).all()
    assert found.tokens[0] > 80_000
    assert found.lost[0] == (0 if long_text == "chunk" else found.tokens[0] - 256)
    np.testing.assert_allclose(found.vectors[1], plain(["a"])[0], atol=0.01)


def test_an_encoder_is_a_context_manager():
    with kat.Encoder("minilm", precision="float32") as encoder:
        first, second = encoder.encode(["bread"]), encoder.encode(["bread", "tyre"])
    np.testing.assert_allclose(first.vectors[0], second.vectors[0], atol=1e-6)
    np.testing.assert_allclose(kat.encode(["bread"], precision="float32").vectors, first.vectors, atol=1e-6)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="nothing to embed"):
        kat.encode([])
    with pytest.raises(InputError, match="row 2 of the list is an int"):
        kat.encode(["a", 3])
    with pytest.raises(InputError, match="Unicode"):
        kat.encode(["\ud800"])
    with pytest.raises(OptionError, match="max_tokens"):
        kat.encode(["a"], max_tokens=2)
    with pytest.raises(OptionError, match="positions for 512"):
        kat.encode(["a"], max_tokens=513)
    with pytest.raises(OptionError, match="batch_size"):
        kat.encode(["a"], batch_size=0)
    with pytest.raises(OptionError, match="processes"):
        kat.encode(["a"], processes=0)
    with pytest.raises(OptionError, match="chat template"):
        kat.encode(["a"], render="chat")
    with pytest.raises(OptionError, match="device"):
        kat.encode(["a"], device="tpu")


SCRIPT = "import kat\nprint(kat.encode(['a', 'b']).vectors.shape)\n"


def test_works_from_standard_input():
    done = subprocess.run([sys.executable, "-"], input=SCRIPT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 384)"


def test_works_from_a_script_without_a_main_guard(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 384)"


def test_unknown_tokens_of_windows_that_were_done_count_too(tmp_path):
    """A run that finds all its windows complete still knows what the model could not read."""
    from making import jsonl, tiny

    from kat.artifacts import manifest
    from kat.data.prompts import PromptFile
    from kat.embedding.checkpoint import EmbeddingCheckpoint

    data = tmp_path / "d.jsonl"
    data.write_bytes(jsonl(*({"id": str(i), "prompt": p} for i, p in enumerate(["w1 w2", "шум", "w3 strange"]))))
    wanted = manifest("embed", {}, {})
    model, found = tiny(tmp_path / "m", "Llama", pad_token_id=1), []
    for _ in range(2):
        with (
            kat.Encoder(model, device="cpu", precision="float32") as encoder,
            EmbeddingCheckpoint(tmp_path / "o.unfinished", wanted, (3, 32)) as checkpoint,
            pytest.warns(UserWarning, match="CYRILLIC"),
        ):
            found.append(encoder.encode_into(checkpoint, PromptFile(data, 0)))
    assert found[0] == found[1]
    assert found[0]["unknown_tokens"] == 2
