"""Rewards over shared trunks, with their gradients, against sequences by themselves in transformers' own classes."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from making import tiny
from making_nanochat import CONFIG, LATER, later_state, random_state, save
from making_training import reward_model, tiny_chat_model

from kat.errors import ModelError, OptionError
from kat.models.load import LoadedModel, load_model
from kat.packing.trunks import Prompt, plant
from kat.training.features import branch_features
from kat.training.reward import RewardModel, choose_trainable

GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 2}
OPT = {"num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 64, "word_embed_proj_dim": 32}
CAUSAL = {
    "Llama": GROUPED,
    "Qwen2": GROUPED | {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
    "Qwen3": GROUPED | {"head_dim": 16},
    "GPT2": GPT2,
    "OPT": OPT,
    "Phi": {},
    "nanochat 2025-10": None,
    "nanochat 2026-03": None,
}
FALLBACK = {"Bloom": BLOOM}  # ALiBi: its positions are not ours to set
ENCODERS = {
    "Bert": {},
    "Roberta": {"max_position_embeddings": 90, "pad_token_id": 1},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "ModernBert": {"local_attention": 6, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
}
ALL = {**CAUSAL, **FALLBACK, **ENCODERS}
FEW = ("Llama", "GPT2", "Bloom", "Bert", "Roberta", "DistilBert")  # a way to pool each


def model_of(family: str, folder, base_dir) -> LoadedModel:
    """A random reward model, with a head that is not small and a pooler where the class has one."""
    import transformers

    if family.startswith("nanochat"):
        later = family.endswith("03")
        # Of a context that is longer than a quarter of it: some layers have a window.
        save(base_dir, later_state(LATER) if later else random_state(), LATER if later else CONFIG)
        return load_model("sft", kind="reward", device="cpu")
    folder = tiny(folder / family, family, **{"pad_token_id": 1} | ALL[family])
    config = transformers.AutoConfig.from_pretrained(folder, num_labels=1)
    torch.manual_seed(1)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # transformers draws with 0.02: nothing would come of attention
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return load_model(folder, kind="reward", device="cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def loaded(request, tmp_path, base_dir) -> LoadedModel:
    return model_of(request.param, tmp_path, base_dir)


def of(families):
    return pytest.mark.parametrize("loaded", families, indirect=True)


def prompts(*, trunk: int = 21) -> list[Prompt]:
    """A trunk that another begins with, equal and lone completions, no trunk; no special token, no 0 … 4."""
    draw = np.random.default_rng(0)

    def tokens(n: int) -> np.ndarray:
        return draw.integers(5, 99, n)

    first, again = tokens(trunk), tokens(4)
    return [
        Prompt(first, [tokens(9), again, again, tokens(1), tokens(17)]),
        Prompt(np.concatenate([first, tokens(5)]), [tokens(2), tokens(3)]),
        Prompt(tokens(3), [tokens(6)]),
        Prompt(tokens(0), [tokens(7), tokens(4)]),
    ]


def sequences(given: list[Prompt]) -> list[np.ndarray]:
    return [np.concatenate([p.trunk, branch]) for p in given for branch in p.branches]


def by_class(model, tokens: list[np.ndarray]) -> torch.Tensor:
    """Each in a batch of its own, no padding, by the class as transformers calls it."""
    rows = [torch.from_numpy(x)[None] for x in tokens]
    return torch.cat([model(input_ids=x, attention_mask=torch.ones_like(x)).logits[:, 0] for x in rows])


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@of(ALL)
def test_rewards_and_gradients_are_those_of_the_class_on_separate_sequences(loaded, request):
    family = request.node.callspec.params["loaded"]
    given = prompts(trunk=150 if family == "nanochat 2026-03" else 21)  # longer than a window of 129
    own = copy.deepcopy(loaded.model)  # before anything is switched over
    own.config.pad_token_id = loaded.chat.pad
    weights = torch.linspace(-1, 2, len(sequences(given)))
    expected = by_class(own, sequences(given))
    (expected * weights).sum().backward()

    model = RewardModel(loaded)
    assert (model.unshared is None) == (family in CAUSAL), model.unshared
    assert (model.unpacked is None) == (family not in FALLBACK), model.unpacked
    row = plant(given)
    actual = model.rewards(row, np.concatenate(row.ends))
    assert actual.dtype == torch.float32
    assert actual.std() > 0.01  # they do differ
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    (actual * weights).sum().backward()
    theirs, ours = gradients(own), gradients(loaded.model)
    assert theirs.keys() == ours.keys()
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-4 * max(gradient.norm(), 1e-3), name


@of(ALL)
def test_a_reward_is_the_same_alone_and_in_any_batch(loaded):
    model = RewardModel(loaded)
    given = prompts()
    tokens = sequences(given)
    with torch.no_grad():
        alone = torch.cat([model.separate_rewards([x]) for x in tokens])
        together = model.separate_rewards(tokens)
        backwards = model.separate_rewards(tokens[::-1]).flip(0)
        rows = [plant([p]) for p in given]
        of_prompts = torch.cat([model.rewards(row, row.ends[0]) for row in rows])
        row = plant(given[::-1])
        mixed = torch.cat([model.rewards(row, ends) for ends in row.ends[::-1]])
    for other in (together, backwards, of_prompts, mixed):
        torch.testing.assert_close(other, alone, atol=1e-5, rtol=1e-5)


@of(FEW)
def test_ends_may_repeat_and_stand_in_any_order(loaded):
    model = RewardModel(loaded)
    row = plant(prompts())
    ends = np.concatenate(row.ends)
    order = np.asarray([3, 0, 3, 7, 1])
    with torch.no_grad():
        torch.testing.assert_close(model.rewards(row, ends[order]), model.rewards(row, ends)[order], atol=1e-5, rtol=0)
        features = model.features(row, ends)
        torch.testing.assert_close(model.from_features(features), model.rewards(row, ends), atol=1e-5, rtol=0)


@of(FEW)
def test_padding_is_no_token_that_ends_a_turn(loaded):
    loaded.tokenizer.eos_token = loaded.tokenizer.convert_ids_to_tokens(7)
    loaded.tokenizer.pad_token = loaded.tokenizer.eos_token  # as many models have it
    model = RewardModel(loaded)
    pad = loaded.model.config.pad_token_id
    assert pad not in loaded.chat.end
    assert loaded.tokenizer.pad_token_id == pad
    end = loaded.chat.end[0]
    tokens = [np.asarray([9, 8, end]), np.asarray([5, 6, 7, 8, 9, 10, 11, end])]
    with torch.no_grad():
        separate = torch.cat([model.separate_rewards([x]) for x in tokens])
        torch.testing.assert_close(model.separate_rewards(tokens), separate, atol=1e-5, rtol=1e-5)
        row = plant([Prompt(x[:2], [x[2:]]) for x in tokens])
        torch.testing.assert_close(model.rewards(row, np.concatenate(row.ends)), separate, atol=1e-5, rtol=1e-5)


@of([*CAUSAL, *FALLBACK])
def test_a_completion_that_ends_with_the_padding_token_is_read_to_its_end(loaded):
    """The class would look one token further left; a truncated completion may end with anything."""
    own = copy.deepcopy(loaded.model)
    model = RewardModel(loaded)
    tokens = np.asarray([9, 8, 11, 23, loaded.model.config.pad_token_id])
    ids = torch.from_numpy(tokens)[None]
    base = getattr(own, own.base_model_prefix)
    with torch.no_grad():
        state = base(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, -1]
        row = plant([Prompt(tokens[:2], [tokens[2:], np.asarray([4, 5])])])
        actual = model.rewards(row, row.ends[0][:1])
    torch.testing.assert_close(actual, own.score(state), atol=1e-5, rtol=1e-5)


def test_a_model_whose_rows_would_give_other_rewards_is_found_out(tmp_path, base_dir, monkeypatch):
    """Able to fail: positions that go on from the token before it in the row, and not from the trunk."""
    from kat.packing.trunks import TrunkLayout

    loaded = model_of("Llama", tmp_path, base_dir)
    own = copy.deepcopy(loaded.model)
    monkeypatch.setattr(TrunkLayout, "positions", property(lambda layout: np.arange(layout.total)))
    model = RewardModel(loaded)
    assert "with shared trunks its rewards differ" in model.unshared
    assert model.unpacked is None
    given = prompts()
    row = plant(given)
    with torch.no_grad():
        actual = model.rewards(row, np.concatenate(row.ends))
        torch.testing.assert_close(actual, by_class(own, sequences(given)), atol=1e-5, rtol=1e-5)


@of(["Llama", "Qwen3", "GPT2", "nanochat 2025-10", "nanochat 2026-03", "Bert"])
def test_bfloat16_autocast_errs_no_more_than_a_model_in_bfloat16(loaded):
    """Root mean squares over 160 completions, against float32."""
    draw = np.random.default_rng(3)
    given = [Prompt(draw.integers(5, 99, 20), [draw.integers(5, 99, 8) for _ in range(8)]) for _ in range(20)]
    ids = torch.from_numpy(np.stack(sequences(given)))  # of one length: a batch without padding
    own, low = copy.deepcopy(loaded.model), copy.deepcopy(loaded.model).to(torch.bfloat16)
    own.config.pad_token_id = low.config.pad_token_id = loaded.chat.pad
    model = RewardModel(loaded, autocast=True)
    assert (model.unshared is None) == model.causal  # found out in float32
    with torch.no_grad():
        expected, plain = (one(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0] for one in (own, low))
        row = plant(given)
        actual = model.rewards(row, np.concatenate(row.ends))
    assert actual.dtype == torch.float32
    error, known = ((x.float() - expected).square().mean().sqrt() for x in (actual, plain))
    assert 0 < error <= known, (error, known)


def test_a_model_without_a_head_that_is_known_is_refused(tmp_path, base_dir):
    loaded = model_of("Llama", tmp_path, base_dir)
    loaded.model.logits_proj = loaded.model.score
    del loaded.model.score
    with pytest.raises(ModelError, match="LlamaForSequenceClassification has no head named score or classifier"):
        RewardModel(loaded)


BEHIND = {
    "Llama": {"model.norm.weight"},
    "GPT2": {"transformer.ln_f.weight", "transformer.ln_f.bias"},
    "OPT": {"model.decoder.final_layer_norm.weight", "model.decoder.final_layer_norm.bias"},
    "Phi": {"model.final_layernorm.weight", "model.final_layernorm.bias"},
    "Bloom": {"transformer.ln_f.weight", "transformer.ln_f.bias"},
    "Bert": {"bert.pooler.dense.weight", "bert.pooler.dense.bias"},
    "ModernBert": {"model.final_norm.weight"},
    "Roberta": set(),
    "DistilBert": set(),
    "nanochat 2026-03": set(),  # its norms have no weights
}


def of_parameters(model: RewardModel) -> set[str]:
    return {name for name, p in model.model.named_parameters() if p.requires_grad}


@of(BEHIND)
def test_what_trains_is_what_was_asked_for(loaded, request):
    model = RewardModel(loaded)
    every = {name for name, _ in model.model.named_parameters()}
    base = {name for name, p in model.model.named_parameters() if any(p is q for q in model.base.parameters())}
    named = {}
    for asked in ("last:1", "head", "all", "last:2"):  # in any order: what was on before is off
        named[asked] = set(choose_trainable(model, asked))
        assert named[asked] == of_parameters(model)
    assert named["head"] == every - base
    assert any(name.startswith(model.head_name) for name in named["head"])
    assert named["all"] == every
    assert named["head"] < named["last:1"] < named["last:2"]
    family = request.node.callspec.params["loaded"]
    stack = {"OPT": "decoder.layers", "GPT2": "h", "Bloom": "h", "Bert": "encoder.layer", "Roberta": "encoder.layer"}
    stack |= {"DistilBert": "transformer.layer"}
    blocks = f"{model.model.base_model_prefix}.{stack.get(family, 'layers')}."
    count = 1 + max(int(name.removeprefix(blocks).split(".")[0]) for name in every if name.startswith(blocks))
    for kept in (1, 2):
        late = {n for n in every if n.startswith(blocks) and int(n.removeprefix(blocks).split(".")[0]) >= count - kept}
        assert named[f"last:{kept}"] == named["head"] | late | BEHIND[family]
    with pytest.raises(OptionError, match=rf"train is last:{count + 1}; the model has {count} blocks"):
        choose_trainable(model, f"last:{count + 1}")
    for other in ("last:0", "last:", "last", "heads", "last:-1"):
        with pytest.raises(OptionError, match="train is"):
            choose_trainable(model, other)


@of(["Llama", "Bloom", "Bert", "Roberta"])
def test_gradients_reach_what_trains_and_nothing_else(loaded):
    model = RewardModel(loaded)
    row = plant(prompts())
    names = choose_trainable(model, "last:1")
    model.rewards(row, np.concatenate(row.ends)).square().sum().backward()
    reached = {name for name, gradient in gradients(model.model).items() if gradient.abs().sum() > 0}
    assert reached <= set(names)
    # A key's bias moves all scores of a query alike: softmax does not see it.
    assert {n for n in set(names) - reached if "pooler" not in n and not n.endswith("key.bias")} == set()


@pytest.mark.parametrize("width", [0, 3, 33])
def test_kept_features_of_another_width_are_computed_again(tmp_path, width):
    """A header that was damaged while the work was interrupted."""
    model = reward_model(tiny_chat_model(tmp_path / "model"))
    numbers, cache = np.asarray([0, 2, 3]), tmp_path / "features"
    data = SimpleNamespace(prompts=prompts())
    expected = branch_features(model, data, numbers, 4096, cache=cache)
    [folder] = cache.iterdir()
    (folder / "complete").unlink()
    np.save(folder / "features.npy", np.zeros((3, width), np.float32))
    torch.testing.assert_close(branch_features(model, data, numbers, 4096, cache=cache), expected, atol=0, rtol=0)


@of(FEW)
@pytest.mark.parametrize("budget", [1, 30, 4096])
def test_features_of_branches_stand_in_the_order_of_their_numbers(loaded, budget):
    """Whatever the lengths of the sequences that are read together, and however many are."""
    model, given, numbers = RewardModel(loaded), prompts(), np.asarray([0, 2, 3, 4, 5, 7, 8, 9])
    with torch.no_grad():
        expected = torch.cat([model.separate_features([sequences(given)[n]]) for n in numbers])
    features = branch_features(model, SimpleNamespace(prompts=given), numbers, budget)
    assert len({tuple(row) for row in features.flatten(1).tolist()}) == len(numbers)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
