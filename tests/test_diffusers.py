"""Denoising networks of diffusers by class and by configuration, one step of denoising."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

import wattlayer as wl
from wattlayer.adapters import InputSize, resolve
from wattlayer.adapters.torchvision import import_torchvision
from wattlayer.errors import InputError
from wattlayer.predict import trace_network

pytest.importorskip("diffusers")
if find_spec("torchvision"):
    import_torchvision()

TINY = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "sample_size": 16,
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}


def traced(name, **size):
    return trace_network(resolve(f"diffusers:{name}", InputSize(**size)))


@pytest.fixture
def config(tmp_path):
    def written(**changes):
        (tmp_path / "config.json").write_text(json.dumps(TINY | changes))
        return tmp_path / "config.json"

    return written


def test_a_configuration_is_one_step_of_its_sizes(config):
    step = traced(config(), batch=2, seq_len=9)
    assert [x.shape for x in step.inputs] == [(2, 4, 16, 16), (2,), (2, 9, 24)]
    assert all(x.known for x in step.unique()) and any(x.group == "attention" for x in step.layers)
    assert traced(config(), image_size=32).flop > 3 * traced(config()).flop


def test_what_stable_diffusion_xl_is_told_beside_the_text_is_made(config):
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80}
    step = traced(config(**added))
    assert {x.shape for x in step.inputs} >= {(1, 32), (1, 6)}  # 80 numbers, 6 x 8 of them sizes and crops


def test_the_weights_do_not_matter_and_the_count_is_pytorchs_own(config):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network = resolve(f"diffusers:{config()}", InputSize())
    ours = sum(x.flop for x in trace_network(network).layers if x.group in ("conv", "matmul", "attention"))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.module(**network.kwargs)
    assert ours == counter.get_total_flops()


@pytest.mark.parametrize("name", ["UNet2DModel", "DiTTransformer2DModel", "SD3Transformer2DModel", "FluxTransformer2DModel"])
def test_default_configurations_run(name):
    step = traced(name, dtype="bfloat16")
    assert step.flop > 1e11 and step.dtype == "bfloat16"


def test_dtype_and_layouts_of_video(config):
    assert traced("CogVideoXTransformer3DModel").inputs[0].shape == (1, 13, 16, 60, 90)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("UNet2DConditionModle", "no network 'UNet2DConditionModle'; nearest: UNet2DConditionModel"),
        ("ModelMixin", "no network 'ModelMixin'"),
        ("no/such/config.json", "cannot be read"),
        ("StableCascadeUNet", "takes timestep_ratio, which nothing here can make"),
    ],
)
def test_refusals_name_the_value(name, told):
    with pytest.raises(InputError, match=told):
        traced(name)


@pytest.mark.parametrize("text", ["[]", "{}", "no", "[" * 100_000, '{"_class_name": "os.system"}', '{"_class_name": 3}'])
def test_no_configuration(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError):
        traced(tmp_path / "config.json")


@pytest.mark.parametrize("size", [{}, {"image_size": 32, "batch": 2}, {"dtype": "bfloat16"}], ids=["its own", "said", "half"])
def test_a_change_starts_from_the_size_that_was_said_or_is_its_own(config, size):
    before = wl.predict(f"diffusers:{config()}", **size)
    assert before.whatif(tf32="conv").change_j == 0.0
    assert before.whatif(dtype="float16").after.trace.inputs[0].shape == before.trace.inputs[0].shape
