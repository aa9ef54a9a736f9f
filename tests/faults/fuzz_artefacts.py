"""Damaged artefacts, read by every function and command that reads them: whatever it meets, the error is kat's.

    PYTHONPATH=.:tests python -m faults.fuzz_artefacts CASES SEED

A case damages one file of a tiny run, model or checkpoint in one way, and half of the time makes the manifests vouch
for it, so that what is read is tried by itself and not by its hash. Anything raised that is no KatError is a failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import numpy as np
from making_training import random_tokens, reward_model

import kat
from faults.artefacts import ASKED, build, train
from faults.damages import copied, damage
from kat.artifacts import manifest_bytes
from kat.config import (
    DensityOptions,
    EmbedOptions,
    ExportWeightsOptions,
    ReadOptions,
    RunOptions,
    SampleOptions,
)
from kat.errors import KatError
from kat.evidence_config import EvaluateOptions
from kat.pair_config import PairOptions

SECONDS = 20
"""After which a case counts as one that hangs."""
_AGAIN = RunOptions(overwrite=True, device="cpu")


@dataclass(frozen=True)
class Failure:
    """A case that ended with an exception of somebody else's, or not at all."""

    seed: int
    number: int
    reader: str
    file: str
    damage: str
    error: str
    place: str

    def __str__(self) -> str:
        where = f"{self.reader} of {self.file} ({self.damage}), case {self.number} of seed {self.seed}"
        return f"{self.place}: {self.error}   [{where}]"


@dataclass(frozen=True)
class Reader:
    """A function of one folder of the artefacts, the files of it that are damaged for it, and how often it is drawn."""

    name: str
    folder: str
    files: str
    call: Callable[[Path], object]
    share: int = 4


def _resume_embedding(folder: Path) -> None:
    from kat.embedding.checkpoint import EmbeddingCheckpoint, discard

    discard(folder / "embedding", ASKED)
    with EmbeddingCheckpoint(folder / "embedding", ASKED, (4, 3)) as kept:
        kept.is_complete(0, slice(0, 4))
        kept.begin_window(0, [np.arange(2), np.arange(2, 4)], 4)


def _load(name: str, **options: Any) -> Callable[[Path], object]:
    """Load a model of a folder, and read with it what is asked first: a text, a conversation, its end."""

    def call(folder: Path) -> None:
        from kat.embedding.tokenize import BulkTokenizer, render
        from kat.models.digests import settings_digest, weights_digest
        from kat.models.sources import resolve

        source = resolve(str(folder / name))
        weights_digest(source), settings_digest(source)
        loaded = kat.load_model(str(folder / name), device="cpu", **options)
        asked = [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2 <|im_end|>"}]
        chat = loaded.chat
        chat.render(asked), chat.text(asked), chat.begin, chat.end, chat.pad, chat.template_ending_in_end()
        chat.render_turns(asked, [{"role": "assistant", "content": "yes"}])
        if not options:
            sentence = loaded.sentence
            prompt = sentence.prompt(None) if sentence else ""
            form = "chat" if chat.kind == "template" else "plain"
            BulkTokenizer(loaded.tokenizer, prompt=prompt).encode(list(render(["w1 w2"], form, loaded.tokenizer)))

    return call


def _encode(folder: Path) -> None:
    with kat.Encoder(str(folder), device="cpu", processes=1) as encoder:
        encoder.encode(["w1 w2", "w3"])


def _in_base(name: str) -> Callable[[Path], object]:
    def call(folder: Path) -> None:
        from kat.models.catalog import found_models

        with mock.patch.dict(os.environ, {"KAT_BASE_DIR": str(folder)}):
            list(found_models())
            kat.load_model(name, device="cpu", kind="causal").chat.render([{"role": "user", "content": "a"}])

    return call


def _density(name: str, out: str) -> Callable[[Path], object]:
    def call(folder: Path) -> None:
        from kat.stages.density import weigh_openings

        weigh_openings(folder / name, folder / out, DensityOptions(), _AGAIN, None)

    return call


def _explained(folder: Path) -> None:
    from kat.stages.density import explain

    explain(folder, json.loads(_IDS.read_bytes())[0])


def _sampled(folder: Path) -> None:
    from kat.integrations.weights import opening_weights_of
    from kat.stages.sample import sample_openings

    opening_weights_of(folder)
    sample_openings(folder, folder / "s.txt", SampleOptions(budget=5), overwrite=True)


def _verified(folder: Path) -> None:
    from kat.stages.verify import verify

    for name in ("", "embeddings", "density", "pair_weights.parquet", "prefixes_all.jsonl"):
        with contextlib.suppress(KatError):
            verify(folder / name)


def _weighed(folder: Path) -> None:
    from kat.stages.weigh_pairs import weigh_pairs

    weigh_pairs(folder, folder / "w.parquet", None, PairOptions(validation_share=0.3), _AGAIN)


def _exported(folder: Path) -> None:
    from kat.integrations.weights import opening_weights_of, pair_weights_of
    from kat.stages.export_weights import export_weights

    with contextlib.suppress(KatError):
        export_weights(folder, folder / "x", ExportWeightsOptions(to="csv"), None, overwrite=True)
    with contextlib.suppress(KatError):
        pair_weights_of(folder / "pair_weights.parquet")
    opening_weights_of(folder / "pair_weights.parquet")


def _evaluated(folder: Path) -> None:
    from kat.stages.evaluate_rm import evaluate_rewards

    options = EvaluateOptions(split="all", missing_scores="all", replicates=5)
    evaluate_rewards([folder / "scores.jsonl"], folder / "v", folder / "pair_weights.parquet", options, _AGAIN)


def _run_again(folder: Path) -> None:
    from kat.stages.run import run

    embed = EmbedOptions(model=str(_CHAT), precision="float32", processes=1)
    run([folder / "pairs.jsonl"], folder, embed, DensityOptions(), RunOptions(device="cpu"))


def _contexts(folder: Path) -> None:
    from kat.stages.contexts import measure_contexts

    measure_contexts(folder / "pairs.jsonl", folder, EmbedOptions(), ReadOptions(), _AGAIN)


def _resume_scores(folder: Path) -> None:
    from kat.training.scoring import ScoreCheckpoint

    with ScoreCheckpoint(folder / "scores", ASKED) as kept:
        kept.begin(4)
        kept.is_done(0, np.arange(4))
        kept.remove()


def _features(folder: Path) -> None:
    from kat.training.features import branch_features
    from kat.training.scoring import branches_of

    data = random_tokens(0, [2, 2])
    model = reward_model(str(_CHAT))
    branch_features(model, data, branches_of(data), 512, cache=folder / "features")


def _mapped(folder: Path) -> None:
    kat.load_density_mapping(folder / "prefixes_all.jsonl", folder / "density" / "density_weights.npy")


_IDS, _CHAT = Path(), Path()
READERS = [
    Reader("verify", "run", "**/*", _verified, 16),
    Reader("sample", "run", "density/*", _sampled, 8),
    Reader("weigh-pairs", "run", "density/**/*", _weighed, 8),
    Reader("weigh-pairs", "run", "*.manifest.json", _weighed),
    Reader("export-weights", "run", "pair_weights*", _exported, 8),
    Reader("export-weights", "run", "*.manifest.json", _exported),
    Reader("evaluate-rm", "run", "pair_weights.parquet", _evaluated, 2),
    Reader("density", "run", "embeddings/*", _density("embeddings", "d"), 6),
    Reader("density, again", "run", "density/**/*", _density("embeddings", "density")),
    Reader("density --explain", "run", "density/**/*", _explained),
    Reader("run, again", "run", "**/*.json", _run_again, 1),
    Reader("load_density_mapping", "run", "density/*", _mapped),
    Reader("density of .pt", "file", "e.pt*", _density("e.pt", "d")),
    Reader("density of .npy", "file", "[vi]*.[nj]*", _density("v.npy", "d")),
    Reader("density of parquet", "file", "v.parquet", _density("v.parquet", "d")),
    Reader("encoder of sentence-transformers", "sentence", "**/*", _load("."), 10),
    Reader("embedding by sentence-transformers", "sentence", "**/*.json", _encode, 2),
    Reader("encoder", "bert", "*", _load("."), 4),
    Reader("causal model", "chat", "*", _load(".", kind="causal"), 8),
    Reader("reward model", "chat", "*", _load(".", kind="reward"), 2),
    Reader("chat template", "chat", "*.jinja", _load(".", kind="causal"), 3),
    Reader("nanochat", "base", "chatsft*/**/*", _in_base("sft"), 3),
    Reader("nanochat of 2026", "base", "base*/**/*", _in_base("base"), 3),
    Reader("nanochat's tokenizer", "base", "tokenizer/*", _in_base("sft"), 3),
    Reader("resumed training", "kept", "training/*", lambda f: train(f / "training", f / "model"), 2),
    Reader("resumed scores", "kept", "scores/*", _resume_scores, 2),
    Reader("contexts", "run", "*.stats.json", _contexts, 2),
    Reader("kept features", "kept", "features/**/*", _features, 2),
    Reader("resumed embedding", "kept", "embedding/*", _resume_embedding, 4),
]


def vouch(folder: Path, old: str, new: str) -> None:
    """Make every manifest say the new hash of a file for the old one, and hash to what it says itself."""
    for path in folder.rglob("*manifest.json"):
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(ValueError, TypeError, RecursionError, UnicodeError):
                told = json.loads(path.read_bytes().replace(old.encode(), new.encode()))
                if isinstance(told, dict):
                    told.pop("manifest_sha256", None)
                    path.write_bytes(manifest_bytes(told))


def _case(made: Path, scratch: Path, seed: int, number: int) -> Failure | None:
    rng = Random(f"{seed} {number}")
    reader = rng.choices(READERS, [one.share for one in READERS])[0]
    folder = copied(made / reader.folder, scratch / reader.folder)
    path = rng.choice(sorted(p for p in folder.glob(reader.files) if p.is_file()))
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    how = damage(path, rng)
    if rng.random() < 0.5 and path.is_file() and not path.is_symlink():
        vouch(folder, old, hashlib.sha256(path.read_bytes()).hexdigest())
    try:
        with _quiet(), _limited():
            reader.call(folder)
    except KatError:
        return None
    except (InterruptedError, KeyboardInterrupt):
        raise
    except BaseException as error:
        frames = [one for one in traceback.extract_tb(error.__traceback__) if "/kat/" in one.filename]
        place = f"{frames[-1].filename.rpartition('/kat/')[2]}:{frames[-1].lineno} {frames[-1].name}" if frames else "?"
        said = f"{type(error).__name__}: {str(error)[:150]!r}"
        return Failure(seed, number, reader.name, path.relative_to(folder).as_posix(), how, said, place)
    return None


class Hangs(BaseException):
    """A case that does not end by itself."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.enter_context(np.errstate(all="ignore"))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


def fuzz(n: int, seed: int = 0, *, first: int = 0, made: Path | None = None) -> list[Failure]:
    """Run n cases of a seed; return those that failed. `made` is a folder of `build`, made here if none is given."""
    global _IDS, _CHAT
    with tempfile.TemporaryDirectory(prefix="kat-fuzz-") as place:
        if made is None:
            made = Path(place) / "made"
            made.mkdir()
            with _quiet():
                build(made)
        _IDS, _CHAT = made / "run" / "embeddings" / "ids.json", made / "chat"
        scratch = Path(place) / "scratch"
        cases = (_case(made, scratch, seed, number) for number in range(first, first + n))
        return [failure for failure in cases if failure is not None]


if __name__ == "__main__":
    failures = fuzz(int(sys.argv[1]), int(sys.argv[2]))
    for place, count in Counter(one.place for one in failures).most_common():
        print(f"{count:5}  {next(one for one in failures if one.place == place)}")
    print(
        f"{int(sys.argv[1]):,} cases, {len(failures):,} foreign exceptions at {len({f.place for f in failures})} lines"
    )
