"""From pairs to weights on a device, as users type it: the weights are the processor's, and `kat verify` agrees."""

import numpy as np
from making_training import tiny_chat_model

from kat.run_folder import DENSITY, EMBEDDINGS, VECTORS, WEIGHTS


def test_a_run_gives_the_processors_weights_and_is_verified(device, kat_cli, tmp_path):
    pairs, runs = tmp_path / "pairs.jsonl", {}
    model = tiny_chat_model(tmp_path / "model")
    assert kat_cli("demo-data", "--out", pairs, "--pairs", 60 if device == "cpu" else 300).rc == 0
    asked = {"a": (device, "float32"), "b": ("cpu", "float32")} | ({} if device == "cpu" else {"c": (device, "auto")})
    for name, (where, precision) in asked.items():
        out = runs[name] = tmp_path / name
        told = ("--out", out, "--model", model, "--device", where, "--precision", precision)
        ran = kat_cli("run", pairs, *told)
        assert ran.rc == 0, ran
        checked = kat_cli("verify", out)
        assert checked.rc == 0, checked
    vectors = {name: np.load(out / EMBEDDINGS / VECTORS) for name, out in runs.items()}
    for name in vectors:
        assert (vectors[name] * vectors["b"]).sum(1).min() > (1 - 2e-3 if name == "c" else 1 - 1e-5)
    weights = {name: np.load(out / DENSITY / WEIGHTS) for name, out in runs.items()}
    np.testing.assert_allclose(weights["a"], weights["b"], rtol=0.02)
