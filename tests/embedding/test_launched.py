"""Texts embedded by a launcher's workers, of one kind or several: who goes on with what, and who is named."""

import contextlib
import itertools
import json

import numpy as np
import orjson
import pytest
from embedding.test_checkpoint import items

import kat
from kat.artifacts import MANIFEST
from kat.config import EmbedOptions, RunOptions
from kat.embedding import encoder as encoders
from kat.embedding.checkpoint import checkpoint_path
from kat.errors import OptionError, OutputError, WorkerError
from kat.executors.base import Launcher
from kat.executors.pool import Pool
from kat.executors.worker import resolve
from kat.stages import embed as stage


class Machines:
    """A launcher and its backend in this process, one worker of each of the `kinds`.

    A worker is lost at a task that holds the token `deadly`; the command is stopped at the answer `stop_at`.
    """

    device, threads = "cpu", 1

    def __init__(self, *kinds, mixed=False, deadly=None, stop_at=None):
        self.kinds, self.mixed, self.deadly, self.stop_at = kinds, mixed, deadly, stop_at
        self.references, self.names = itertools.count(), itertools.count()
        self.pool = Pool(self.end)
        self.take_back = self.pool.take_back
        self.queues, self.answers, self.fetched = {}, {}, 0

    def start(self, function, settings, shared=(), *, alike=False):
        self.settings = settings
        self.compute, self.facts = resolve(function)(settings, shared)
        return self.pool.start(self, len(self.kinds), alike=alike and not self.mixed)

    def close(self):
        self.pool.close()

    def hire(self):
        worker = next(self.names)
        self.queues[worker] = []
        return worker

    def _facts(self, worker):
        return {**self.facts, "instructions": self.kinds[worker % len(self.kinds)]}

    def begin(self, worker):
        self.answers[reference := next(self.references)] = {
            "facts": {**self._facts(worker), "host": f"h{worker}", "pid": 1}
        }
        return reference

    def has_started(self, worker):
        return True

    def give(self, worker, arrays):
        self.queues[worker].append((reference := next(self.references), arrays))
        return reference

    def wait(self, references, seconds):
        if not any(reference in self.answers for reference in references):
            worker = next(worker for worker, queue in self.queues.items() if queue)
            reference, arrays = self.queues[worker].pop(0)
            if self.deadly is not None and self.deadly in arrays[0]:
                lost = [reference, *(one for one, _ in self.queues.pop(worker))]
                self.answers |= dict.fromkeys(lost)
            else:
                vectors, _ = self.compute(arrays)
                way = np.frombuffer(orjson.dumps(self._facts(worker)), np.uint8)
                self.answers[reference] = {"arrays": [vectors, way]}
        return [reference for reference in references if reference in self.answers]

    def answer(self, reference):
        return self.answers.pop(reference)

    def arrays(self, answer):
        self.fetched += 1
        if self.fetched == self.stop_at:
            raise KeyboardInterrupt
        return answer["arrays"]

    def end(self, worker):
        self.queues.pop(worker, None)

    def no_room(self):
        return "there is none."


@pytest.fixture(autouse=True)
def _all_work(monkeypatch):
    monkeypatch.setattr(encoders, "WORTHWHILE", 0)


@pytest.fixture
def embed(tmp_path, tiny_llama):
    """Embed 60 texts, 4 a pack, by some machines; return the folder."""
    data = items(tmp_path / "items.jsonl", 60)

    def embed(name, machines):
        out = tmp_path / name
        options = EmbedOptions(tiny_llama, batch_size=4)
        with closing(machines):
            stage.embed_folder(data, out, options, RunOptions(device="cpu"), launcher=machines)
        return out

    return embed


def closing(machines):
    assert isinstance(machines, Launcher)
    return contextlib.closing(machines)


def manifest_of(out):
    return json.loads((out / MANIFEST).read_bytes())


def kinds_of(out):
    return [way["instructions"] for way in manifest_of(out).get("workers", ())]


def same_bytes(out, other):
    return all((out / name).read_bytes() == (other / name).read_bytes() for name in ("embeddings.npy", MANIFEST))


def test_another_kind_does_not_go_on_with_the_work(embed):
    calm = embed("calm", Machines("AVX2", "AVX2"))
    with pytest.raises(KeyboardInterrupt):
        embed("stopped", Machines("AVX2", "AVX2", stop_at=6))
    with pytest.raises(OutputError, match=r"checkpoint of a run that.*AVX2.*AVX512.*--overwrite"):
        embed("stopped", Machines("AVX512"))
    with pytest.raises(OutputError, match="checkpoint of a run that"):
        embed("stopped", Machines("AVX2", "AVX512", mixed=True))
    with pytest.raises(OptionError, match="two kinds"):
        embed("stopped", Machines("AVX2", "AVX512"))
    stopped = embed("stopped", last := Machines("AVX2"))
    assert last.fetched < 15  # it went on
    assert same_bytes(stopped, calm)
    assert "workers" not in manifest_of(stopped)


def test_mixed_workers_of_all_runs_are_listed_if_they_computed_something(embed):
    alone = Machines("AVX2", mixed=True)
    assert kinds_of(embed("alone", alone)) == []
    packs = alone.fetched
    with pytest.raises(KeyboardInterrupt):
        embed("both", Machines("AVX512", mixed=True, stop_at=4))
    with pytest.raises(KeyboardInterrupt):
        embed("both", Machines("AVX2", mixed=True, stop_at=packs - 3))
    last = Machines("AVX2", "NEON", mixed=True)  # one pack is left, which the first of the two gets
    both = embed("both", last)
    assert last.fetched == 1
    assert kinds_of(both) == ["AVX2", "AVX512"]
    assert not checkpoint_path(both).exists()
    at_once = embed("at_once", Machines("AVX512", "AVX2", mixed=True))
    assert kinds_of(at_once) == ["AVX2", "AVX512"]


def test_a_damaged_list_of_workers_is_an_error(embed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        embed("x", Machines("AVX2", mixed=True, stop_at=4))
    path = checkpoint_path(tmp_path / "x") / "workers.json"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OutputError, match=r"workers\.json is damaged.*--overwrite"):
        embed("x", Machines("AVX2", mixed=True))


def test_the_texts_that_workers_die_of_are_named(tiny_llama):
    texts = [f"w{n % 50} w{n % 7} w{n % 31}" for n in range(40)]
    texts[17] += " w97"
    with kat.Encoder(tiny_llama, device="cpu") as plain:
        deadly = int(plain.tokenize([texts[17]]).flat[-1])
        assert not any(deadly in plain.tokenize([text]).flat for n, text in enumerate(texts) if n != 17)
    machines = Machines("AVX2", "AVX2", deadly=deadly)
    with (
        closing(machines),
        kat.Encoder(tiny_llama, device="cpu", launcher=machines, batch_size=1) as encoder,
    ):
        with pytest.raises(
            WorkerError, match=r"3 workers were lost.*It holds 1 text, ids 17\. .*--max_tokens"
        ) as caught:
            encoder.encode(texts)
        assert caught.value.__cause__.task is not None
        machines.deadly = None
        assert len(encoder.encode(texts)) == 40  # with other workers
    assert not machines.queues


def test_the_texts_of_a_file_are_named_by_its_ids(embed):
    machines = Machines("AVX2", "AVX2")
    machines.deadly = 5
    with pytest.raises(WorkerError, match=r"It holds \d texts?, ids i\d+"):
        embed("x", machines)


def test_an_encoder_whose_workers_are_at_other_work_gets_others(tiny_llama):
    """A search takes the workers of an encoder that lives; the encoder takes them back."""
    texts = [f"w{n % 50} w{n % 7}" for n in range(20)]
    machines = Machines("AVX2", "AVX2")
    with (
        closing(machines),
        kat.Encoder(tiny_llama, device="cpu", launcher=machines, batch_size=4) as encoder,
    ):
        vectors = encoder.encode(texts).vectors
        other = machines.start("kat.embedding.workers:make_worker", machines.settings)
        assert len(machines.queues) == 2
        assert (encoder.encode(texts).vectors == vectors).all()
        assert other.count == 0
        assert len(machines.queues) == 2
