"""One way of taking steps of GRPO, in a process of its own: `python grpo_methods.py METHOD PROMPTS.json OPTIONS`.

Warms up by a step, and then takes one for every line of input, answering with seconds as JSON. All completions have
`new` tokens: none ends before, so that every method draws, rewards and trains on as many.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

METHODS = ("kat", "trl", "trl, continuous batching")


def vowels(texts: Sequence[str]) -> list[float]:
    """The reward of all methods: the share of vowels."""
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in texts]


def kat_method(prompts: list[str], options: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Return what takes a step of kat's trainer."""
    import torch

    from kat.grpo_config import GrpoOptions
    from kat.training.grpo import GrpoTrainer
    from kat.training.prompt_sampler import Asked, SystematicSampler
    from kat.training.reward_sources import FunctionReward, RewardSum
    from kat.training.train_grpo import load_policy, load_reference, prompts_of_policy

    chosen = GrpoOptions(
        policy=options["model"],
        batch_size=options["prompts"],
        num_generations=options["generations"],
        max_new_tokens=options["new"],
        max_len=1024,
        learning_rate=1e-6,
        beta=options["beta"],
        redraw=0,
        max_steps=1000,
    )
    torch.set_num_threads(options["threads"])
    policy = load_policy(chosen, "cpu")
    asked = [Asked([{"role": "user", "content": text}], str(i), str(i)) for i, text in enumerate(prompts)]
    tokens = prompts_of_policy(policy, asked, chosen)
    reward = RewardSum([FunctionReward(lambda _, texts: vowels(texts))], [1.0], ["vowels"])
    reference = load_reference(chosen, "cpu") if chosen.beta else None
    sampler = SystematicSampler(asked, {one.opening_id: 1.0 for one in asked})

    trainer = GrpoTrainer(policy, tokens.asked, tokens.trunks, sampler, reward, options=chosen, reference=reference)
    trainer.roller.ends = frozenset()

    def step() -> dict[str, float]:
        numbers = trainer.step()
        return {
            "generating": numbers["seconds_generating"],
            "training": numbers["seconds_training"],
            "tokens": numbers["tokens_generated"],
        }

    return step


def trl_method(method: str, prompts: list[str], options: dict[str, Any]) -> Callable[[], dict[str, float]]:
    """Return what takes a step of TRL's trainer: bfloat16, no checkpointing of activations."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from kat.models.sources import resolve

    torch.set_num_threads(options["threads"])
    folder = resolve(options["model"]).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    size = options["prompts"] * options["generations"]
    arguments = GRPOConfig(
        output_dir=options["scratch"],
        per_device_train_batch_size=min(size, options["trl_batch"]),
        gradient_accumulation_steps=max(size // options["trl_batch"], 1),
        num_generations=options["generations"],
        max_completion_length=options["new"],
        generation_kwargs={"min_new_tokens": options["new"]},
        use_transformers_continuous_batching="continuous" in method,
        temperature=1.0,
        beta=options["beta"],
        max_steps=options["repeats"] + 1,
        learning_rate=1e-6,
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    generating: list[float] = []
    steps: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            told = sys.stdin.readline() if steps else "warm up"
            if not told:
                raise SystemExit
            generating.clear()
            steps.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds = time.perf_counter() - steps[-1]
            if len(steps) == 1:
                print("ready", flush=True)
                return
            drawn = sum(generating)
            answer({"generating": drawn, "training": seconds - drawn, "tokens": size * options["new"]})

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: vowels([one[0]["content"] for one in completions]),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in prompts]),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    plain = trainer._generate

    def timed(*given: Any, **more: Any) -> Any:
        before = time.perf_counter()
        try:
            return plain(*given, **more)
        finally:
            generating.append(time.perf_counter() - before)

    trainer._generate = timed
    trainer.train()
    raise SystemExit


def answer(numbers: dict[str, float]) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": numbers["generating"] + numbers["training"], "peak_mb": peak} | numbers), flush=True)


def main() -> None:
    method, path, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    prompts = json.loads(path.read_text())
    step = trl_method(method, prompts, options) if method.startswith("trl") else kat_method(prompts, options)
    step()
    print("ready", flush=True)
    for _ in sys.stdin:
        answer(step())


if __name__ == "__main__":
    main()
