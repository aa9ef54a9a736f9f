"""Where outputs come from, against their manifests."""

from dataclasses import replace

from making_sections import HOSTILE, cells, column, lines, prose, table

from kat.config import DensityOptions, EmbedOptions, RunOptions, recorded
from kat.grpo_config import GrpoOptions
from kat.pair_config import PairOptions
from kat.reports.sections.provenance import Output, changed_options, defaults, provenance
from kat.training_config import RewardOptions


def manifest(stage, options, **more):
    return {"stage": stage, "kat_version": "9.9", "inputs": {"pairs": "ab" * 32}, "options": options, **more}


def test_options_at_their_default_are_left_out():
    for stage, kind in (("density", DensityOptions()), ("weigh-pairs", PairOptions()), ("embed", EmbedOptions())):
        assert changed_options(stage, recorded(kind, *([RunOptions()] if stage == "embed" else []))) == {}
    assert changed_options("train-rm", recorded(RewardOptions())) == {}
    assert changed_options("train-grpo", recorded(GrpoOptions())) == {}
    changed = recorded(replace(PairOptions(), blend=1.0, smooth="cluster", seed=7))
    assert changed_options("weigh-pairs", changed) == {"blend": 1.0, "smooth": "cluster"}
    assert changed_options("neighbors", {"k": 50, "search": "approximate"}) == {"search": "approximate"}
    assert changed_options("of another", {"a": 1, "b": None, "c": []}) == {"a": 1}
    assert defaults("of another") == {}


def test_outputs_and_hashes_in_full():
    outputs = [
        Output("density", manifest("density", recorded(DensityOptions(k=7)), outputs={"ids.json": "cd" * 32})),
        Output(HOSTILE, manifest("weigh-pairs", recorded(PairOptions(seed=3, control_seed=5)))),
        Output("neighbors", manifest("neighbors", {"k": 50})),
    ]
    section = provenance(outputs)
    shown = table(section, "Outputs")
    assert column(shown, "output") == ["density", HOSTILE, "neighbors"]
    assert column(shown, "made by") == ["kat density", "kat weigh-pairs", "kat density"]
    assert column(shown, "seed") == [None, "3, 5", None]
    assert column(shown, "options that are not the default") == ["--k 7", None, None]
    assert column(table(section, "was read"), "sha256") == ["ab" * 32] * 3
    assert table(section, "was written").rows == [("density", "ids.json", "cd" * 32)]


def test_time_and_memory_are_those_of_the_log():
    log = [
        {"stage": "embed", "out": "e", "command": f"kat run {HOSTILE}", "began": "2026-01-02T03:04:05Z"},
        {
            "stage": "density",
            "command": f"kat run {HOSTILE}",
            "seconds": 1.25,
            "peak_memory_bytes": 2**30,
            "torch": "2",
        },
    ]
    outputs = [Output(name, manifest(name, {})) for name in ("embed", "density", "train-rm")]
    section = provenance(outputs, log=log)
    assert lines(section) == [f"kat run {HOSTILE}"]
    assert table(section, "Time and memory").rows == [
        ("embed", "e", "2026-01-02T03:04:05Z", None, None, None, None, None),
        ("density", None, "not known", 1.25, 2**30, None, None, "2"),
        ("train-rm", None, "not known", None, None, None, None, None),
    ]
    assert prose(section) == []


def test_without_a_log_the_commands_are_not_known():
    section = provenance([], versions={"numpy": "2.0", "torch": None})
    assert prose(section) == ["The exact commands are not known: no log of this run names them."]
    assert cells(section, "Versions") == {"numpy": "2.0", "torch": "not installed"}
