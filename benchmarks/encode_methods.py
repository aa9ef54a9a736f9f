"""The ways from texts to unit vectors that bench_encode.py compares.

`python encode_methods.py METHOD FOLDER` loads one of them and answers lines of JSON on standard input:
{"texts": FILE, "limit": TOKENS} reads the texts and warms up, {"out": FILE} embeds them, saves the vectors and says
how many seconds that took.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from encode_machine import cores

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

WARM = 200  # texts of the warm-up
RUN = 128  # neighbours in length that batch sizes are tried on, in three places
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

Encode = Callable[[list[str], int, int | None], np.ndarray]
"""Texts, the most tokens of one, texts of a batch: to vectors."""
Compiled = Callable[[dict[str, np.ndarray]], np.ndarray]
"""Inputs by name to hidden states [B, T, D]."""


@dataclass(frozen=True)
class Method:
    """`start` loads a model from a folder. Of several `batches` the quickest is taken at the warm-up."""

    title: str
    start: Callable[[str], Encode]
    needs: tuple[str, ...] = ()
    batches: tuple[int | None, ...] = (32,)

    def missing(self) -> list[str]:
        return [package for package in self.needs if importlib.util.find_spec(package) is None]


def kat_encode(folder: str, precision: str) -> Encode:
    """kat packs texts up to a budget of tokens and has no batch size."""
    import kat
    from kat.embedding import encoder

    if not hasattr(encoder, "WORTHWHILE"):
        raise RuntimeError("kat.embedding.encoder.WORTHWHILE is gone: the warm-up cannot start the workers")
    encoder.WORTHWHILE = 0  # the workers of the run start in the warm-up, however little it has to do

    def encode(texts: list[str], limit: int, batch: int | None) -> np.ndarray:
        how = {"precision": precision, "max_tokens": limit, "long_text": "head"}
        return kat.encode(texts, folder, device="cpu", **how).vectors

    return encode


def load_sentence_transformer(folder: str, **settings: Any) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    # It would put a chat template around every text, which the others do not read.
    plain = {"chat_template": None}
    return SentenceTransformer(folder, device="cpu", model_kwargs=settings, processor_kwargs=plain)


def encode_with(model: SentenceTransformer) -> Encode:
    """sentence-transformers' own loop: sorting, batching, tokenising, pooling, normalising."""

    def encode(texts: list[str], limit: int, batch: int) -> np.ndarray:
        model.max_seq_length = limit
        return model.encode(texts, batch_size=batch, normalize_embeddings=True, show_progress_bar=False)

    return encode


def sentence_transformers(folder: str, dtype: str) -> Encode:
    import torch

    return encode_with(load_sentence_transformer(folder, dtype=getattr(torch, dtype)))


def compiled(folder: str, attention: str, convert: Callable[[torch.nn.Module, dict], Compiled]) -> Encode:
    """sentence-transformers' own loop around another library's forward pass of its transformer."""
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    model = load_sentence_transformer(folder, dtype=torch.float32, attn_implementation=attention)
    example = model.preprocess(["two texts", "of different length"])
    names = [name for name in INPUTS if name in example]
    transformer = model[0].auto_model.eval()
    with torch.no_grad():
        run = convert(transformer, {name: example[name] for name in names})

    def forward(**given: torch.Tensor) -> BaseModelOutput:
        return BaseModelOutput(torch.from_numpy(run({name: given[name].numpy() for name in names})))

    transformer.forward = forward
    return encode_with(model)


def to_openvino(model: torch.nn.Module, example: dict[str, torch.Tensor], hint: str) -> Compiled:
    import openvino

    converted = openvino.convert_model(model, example_input=example)
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": cores()}
    ready = openvino.Core().compile_model(converted, "CPU", settings)
    return lambda given: ready(given)[0]


def to_onnx(model: torch.nn.Module, example: dict[str, torch.Tensor]) -> Compiled:
    import onnxruntime
    import torch

    class Hidden(torch.nn.Module):
        """The model as the exporter wants it: tensors by position, one tensor back."""

        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return self.model(**dict(zip(example, given, strict=True))).last_hidden_state

    axes = {name: {0: "texts", 1: "tokens"} for name in (*example, "hidden")}
    with tempfile.TemporaryDirectory() as folder:
        path, names = f"{folder}/model.onnx", {"input_names": list(example), "output_names": ["hidden"]}
        torch.onnx.export(Hidden(), tuple(example.values()), path, dynamic_axes=axes, dynamo=False, **names)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cores()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, given)[0]


def transformers_sorted(folder: str, autocast: bool) -> Encode:
    """Plain transformers: texts sorted by tokens, padded on the right in batches, the mean of real tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def embed(ids: list[list[int]]) -> torch.Tensor:
        given = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        hidden, mask = model(**given).last_hidden_state.float(), given["attention_mask"][..., None]
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)

    def encode(texts: list[str], limit: int, batch: int) -> np.ndarray:
        ids = tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
        order = np.argsort([-len(one) for one in ids], kind="stable")
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        # Entered once for all batches: autocast keeps the converted weights until it is left.
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                vectors[rows] = embed([ids[row] for row in rows]).numpy()
        return vectors

    return encode


ST, BOTH, NONE = ("sentence_transformers",), (32, 128), (None,)
ONNX, OPENVINO = (*ST, "onnx", "onnxruntime"), (*ST, "openvino")


def openvino(hint: str) -> Callable[[str], Encode]:
    return partial(compiled, attention="sdpa", convert=partial(to_openvino, hint=hint))


METHODS: dict[str, Method] = {
    "kat": Method("kat auto", partial(kat_encode, precision="auto"), batches=NONE),
    "kat-float32": Method("kat float32", partial(kat_encode, precision="float32"), batches=NONE),
    "st": Method("sentence-transformers default", partial(sentence_transformers, dtype="float32"), ST),
    "st-128": Method("sentence-transformers", partial(sentence_transformers, dtype="float32"), ST, (128,)),
    "st-bfloat16": Method("sentence-transformers bfloat16", partial(sentence_transformers, dtype="bfloat16"), ST),
    # Eager attention: what becomes of the fused one in ONNX holds checks for NaN and is slower.
    "onnx": Method("ONNX Runtime float32", partial(compiled, attention="eager", convert=to_onnx), ONNX, BOTH),
    "openvino": Method("OpenVINO float32", openvino("f32"), OPENVINO, BOTH),
    "openvino-bfloat16": Method("OpenVINO bfloat16", openvino("bf16"), OPENVINO, BOTH),
    "transformers": Method("transformers float32, sorted", partial(transformers_sorted, autocast=False)),
    "transformers-autocast": Method("transformers autocast, sorted", partial(transformers_sorted, autocast=True)),
}


def typical(texts: list[str]) -> list[str]:
    """Texts of neighbouring lengths from three places of the sorted list, padded in batches as in the whole."""
    if len(texts) <= 3 * RUN:
        return texts
    ordered = sorted(texts, key=len)
    starts = [(len(texts) - RUN) * quarter // 4 for quarter in (1, 2, 3)]
    return [text for start in starts for text in ordered[start : start + RUN]]


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class Server:
    """One method in this process, which answers what the benchmark asks."""

    def __init__(self, method: Method, folder: str):
        self.batches, self.encode = method.batches, method.start(folder)

    def prepare(self, texts: str, limit: int) -> dict:
        """Read the texts, warm up on some of them, and choose the batch size."""
        self.texts, self.limit, self.batch = json.loads(Path(texts).read_text()), limit, self.batches[0]
        for batch in self.batches:
            self.encode(self.texts[:WARM], limit, batch)
        if len(self.batches) > 1:
            sample = typical(self.texts)
            self.batch = min(self.batches, key=lambda batch: seconds(lambda: self.encode(sample, limit, batch)))
        return {"batch": self.batch}

    def run(self, out: str) -> dict:
        """Embed all texts."""
        start = time.perf_counter()
        vectors = self.encode(self.texts, self.limit, self.batch)
        taken = time.perf_counter() - start
        np.save(out, vectors)
        return {"seconds": taken}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between the answers

    def answer(value: dict) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        server = Server(METHODS[sys.argv[1]], sys.argv[2])
        answer({})
        for line in sys.stdin:
            asked = json.loads(line)
            answer(server.run(**asked) if "out" in asked else server.prepare(**asked))
    except Exception as error:  # told to the benchmark, which goes on without this method
        answer({"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"})


if __name__ == "__main__":
    main()
