"""Small reward models, pairs as tokens and plain rewards, for the tests of training."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from making import turn

from kat.packing.trunks import Prompt
from kat.records import Pair, Prefix
from kat.training.tokens import TokenPairs
from kat.training.train import load_reward_model, save_model
from kat.training_config import RewardOptions

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}<call>{{ c.function | tojson }}</call>{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORDS = "how do I boil an egg for seven minutes and then peel it? yes, no, good, bad. user assistant system "


def letters_tokenizer(template: str | None = CHATML, texts: list[str] | None = None, vocabulary: int = 320):
    """A tokenizer that reads every text, of bytes and a few words (of `texts`), with ChatML's marks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(texts or [_WORDS] * 3, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|im_end|>", extra_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = template
    return tokenizer


def tiny_chat_model(
    folder,
    template: str | None = CHATML,
    *,
    blocks: int = 2,
    texts: list[str] | None = None,
    vocabulary: int = 320,
    causal: bool = False,
) -> str:
    """A random Llama, of which `causal` has a head for words, with a tokenizer of letters, as a folder."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        num_hidden_layers=blocks,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=2048,
        initializer_range=0.2,
    )
    (transformers.LlamaForCausalLM if causal else transformers.LlamaModel)(config).save_pretrained(folder)
    letters_tokenizer(template, texts, vocabulary).save_pretrained(folder)
    return str(folder)


def tiny_gpt2(folder, positions: int = 512) -> str:
    """A random GPT-2, whose table of positions is its limit, with a tokenizer of letters, as a folder."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=positions, initializer_range=0.2
    )
    transformers.GPT2Model(config).save_pretrained(folder)
    letters_tokenizer().save_pretrained(folder)
    return str(folder)


def reward_model(folder: str, **options):
    return load_reward_model(RewardOptions(model=folder, precision="float32", **options), "cpu")


def plain_model(model, folder):
    """What Hugging Face reads of a model as saved: nothing of kat's rows is in it."""
    save_model(model, folder)
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


def sequence(data: TokenPairs, pair: int, side: np.ndarray) -> torch.Tensor:
    """The tokens [1, L] of one completion behind its prompt."""
    prompt = data.prompts[data.prompt[pair]]
    return torch.from_numpy(np.concatenate([prompt.trunk, prompt.branches[side[pair]]]).astype(np.int64))[None]


def plain_rewards(plain, data: TokenPairs, pair: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both rewards of a pair, every sequence by itself."""
    chosen, rejected = (
        plain(input_ids=sequence(data, pair, side)).logits[0, 0] for side in (data.chosen, data.rejected)
    )
    return chosen, rejected


def random_tokens(seed: int, sizes: list[int], *, margins: bool = False) -> TokenPairs:
    """A TokenPairs whose prompt n has sizes[n] pairs over one branch more, of random tokens."""
    draw = np.random.default_rng(seed)
    prompts, rows = [], []
    for number, size in enumerate(sizes):
        branches = [draw.integers(3, 300, draw.integers(1, 9)).astype(np.int32) for _ in range(size + 1)]
        prompts.append(Prompt(draw.integers(3, 300, draw.integers(1, 12)).astype(np.int32), branches))
        rows += [(number, *draw.permutation([b, b + 1])) for b in range(size)]
    prompt, chosen, rejected = np.asarray([rows[i] for i in draw.permutation(len(rows))], np.int64).reshape(-1, 3).T
    values = draw.uniform(0, 1, len(prompt)) if margins else np.zeros(len(prompt))
    ids = [f"p{i}" for i in range(len(prompt))]
    return TokenPairs(prompts, prompt, chosen, rejected, ids, values.astype(np.float32))


def pair_of(chosen, rejected, context="How?", *, pair_id="a", row=1, tools=None, margin=None) -> Pair:
    """A pair; texts become one turn, and lists of messages stay."""
    context = [turn("user", context)] if isinstance(context, str) else context
    both = [[turn("assistant", side)] if isinstance(side, str) else side for side in (chosen, rejected)]
    texts = ["\n".join(str(m.get("content")) for m in side) for side in both]
    return Pair(pair_id, Prefix("o", context), *texts, "s", row, context, *both, tools=tools, margin=margin)


def answered_pairs() -> list[Pair]:
    """14 pairs of 5 prompts, whose completions are drawn of six."""
    texts = ["good", "bad", "yes, seven minutes", "no", "peel it", "boil an egg"]
    draw = np.random.default_rng(0)
    listed = []
    for i in range(14):
        chosen, rejected = (texts[t] for t in draw.permutation(6)[:2])
        listed.append(pair_of(chosen, rejected, f"How do I {i % 5}?", pair_id=f"p{i}", row=i + 1))
    return listed


def parameters_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What all parameters are now."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], p) for name, p in second.items())
