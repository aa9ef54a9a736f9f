"""The classes of nanochat 2026-03 as transformers sees them."""

import inspect
import json
from typing import get_type_hints

import pytest
import torch
from making_nanochat import LATER, later_state, save

from kat.models.nanochat import modeling
from kat.models.sources import resolve

CLASSES = [value for name, value in vars(modeling).items() if name.startswith("KatNanoChat")]


@pytest.mark.parametrize("value", CLASSES, ids=lambda value: value.__name__)
def test_annotations_can_be_resolved(value):
    """transformers reads them, of models and of their forward; those of a function's classes it could not."""
    assert not any(isinstance(hint, str) for hint in inspect.get_annotations(value, eval_str=True).values())
    if issubclass(value, torch.nn.Module):  # the base class of configurations names torch, and does not import it
        assert get_type_hints(value) is not None
        for name in {"__init__", "forward"} & set(vars(value)):
            assert "return" in get_type_hints(vars(value)[name])


def test_windows_are_a_quarter_of_the_context_and_the_last_layer_sees_all():
    config = modeling.KatNanoChatConfig(num_hidden_layers=6, max_position_embeddings=512, window_pattern="SSSL")
    assert [modeling.window_of(i, config) for i in range(6)] == [129, 129, 129, None, 129, None]
    config.max_position_embeddings = 2049  # a quarter is 512.25, in whole 128s 640
    assert modeling.window_of(0, config) == 641


def test_names_on_disk_stay_those_of_folders_already_converted(base_dir):
    """config.json and the tensors' names are a format: folders converted by earlier versions must load."""
    from safetensors.torch import load_file

    save(base_dir, later_state(LATER), LATER)
    folder = resolve("sft").path
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("kat_nanochat", ["KatNanoChatForCausalLM"])
    names = set(load_file(folder / "model.safetensors"))
    top = {"lm_head.weight", "model.backout_lambda", "model.embed_tokens.weight", "model.resid_lambdas"}
    top |= {"model.smear_gate.weight", "model.smear_lambda", "model.x0_lambdas"}
    assert {name for name in names if ".layers." not in name and ".value_embeds." not in name} == top
    parts = {"q_proj", "k_proj", "v_proj", "o_proj"}
    layer = {f"self_attn.{part}.weight" for part in parts} | {"mlp.fc1.weight", "mlp.fc2.weight"}
    assert {n.split(".", 3)[3] for n in names if n.startswith("model.layers.0.")} == layer
    assert {n.split(".", 3)[3] for n in names if n.startswith("model.layers.1.")} == {
        *layer,
        "self_attn.ve_gate.weight",
    }
    modeling.register()
    modeling.register()  # once is enough, twice does no harm
    from transformers import AutoConfig, AutoModelForCausalLM

    assert type(AutoConfig.from_pretrained(folder)) is modeling.KatNanoChatConfig
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert type(model) is modeling.KatNanoChatForCausalLM
    with pytest.raises(ValueError, match="needs input_ids"):
        model.model(inputs_embeds=torch.zeros(1, 2, 48))
