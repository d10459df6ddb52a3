"""Families of transformers whose inputs or control flow follow no common rule, on tiny configurations."""

from __future__ import annotations

import json
from importlib.util import find_spec
from inspect import Parameter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import networks
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wattlayer.adapters import InputSize, Network, resolve
from wattlayer.adapters.huggingface.completion import complete
from wattlayer.adapters.huggingface.incomplete import CONVENTION, FORECAST_STEPS
from wattlayer.cli.output import rendered
from wattlayer.crosscheck import torch_counts
from wattlayer.errors import InputError
from wattlayer.estimate import estimate
from wattlayer.model import load_model
from wattlayer.predict import trace_network
from wattlayer.report import estimate_tables, trace_json
from wattlayer.trace import Trace, trace
from wattlayer.trace.assumptions import EVEN_CHOICES
from wattlayer.zoo import zoo_names

TINY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "vocab_size": 128, "max_position_embeddings": 64,
}  # fmt: skip


def tiny(folder: Path, model_type: str, **config: Any) -> Trace:
    """Trace a network of a configuration written to `folder`."""
    pytest.importorskip("transformers")
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, **config}))
    network = resolve(f"hf:{folder}", InputSize())
    return trace(network.module, *network.args, kwargs=network.kwargs, network=network.name)


# --- networks that read which experts a router chose


class Routed(nn.Module):
    """Four experts of which every token visits two, in a loop over those that were chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 4)
        self.experts = nn.ModuleDict({f"expert_{i}": nn.Linear(8, 8) for i in range(4)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = self.router(x).topk(2, dim=-1).indices
        mask = nn.functional.one_hot(chosen, 4).permute(2, 1, 0)
        out = torch.zeros_like(x)
        for expert in mask.sum((-1, -2)).nonzero():
            _, token = torch.where(mask[expert].squeeze(0))
            out.index_add_(0, token, self.experts[f"expert_{expert[0]}"](x[token]))
        return out


def test_tokens_are_spread_evenly_over_experts_and_it_is_said() -> None:
    module, x = Routed().eval(), torch.randn(12, 8)
    found = trace(module, x)
    rows = [x.inputs[0].shape[0] for x, path in zip(found.layers, found.paths) if x.kind == "linear" and "experts" in path]
    assert rows == [6, 6, 6, 6]
    assert found.assumptions == (EVEN_CHOICES,)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(x)
    # whichever experts the weights choose, each token meets two
    assert sum(x.flop * n for x, n in found.unique().items() if torch_counts(x)) == counter.get_total_flops()


def test_an_estimate_prints_what_was_assumed() -> None:
    result = estimate(trace(Routed().eval(), torch.randn(12, 8)), load_model("h200-sxm"))
    assert EVEN_CHOICES in rendered(*estimate_tables(result)).replace("\n", " ")
    assert result.to_json()["assumptions"] == [EVEN_CHOICES]
    assert trace_json(result.trace)["assumptions"] == [EVEN_CHOICES]


def test_nothing_is_assumed_where_no_choice_is_read() -> None:
    assert trace(nn.Linear(4, 4), torch.randn(2, 4)).assumptions == ()

    class Largest(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.gather(1, x.topk(2).indices)

    assert trace(Largest(), torch.randn(2, 4)).assumptions == ()


@pytest.mark.parametrize(
    ("function", "shape", "values"),
    [
        (lambda x: x.argmax(-1), (4,), [0, 1, 2, 0]),
        (lambda x: x.max(dim=0).indices, (3,), [0, 1, 2]),
        (lambda x: x.topk(2, dim=0).indices, (2, 3), [[0, 2, 0], [1, 3, 1]]),
        (lambda x: x.topk(2).indices, (4, 2), [[0, 1], [2, 0], [1, 2], [0, 1]]),
        (lambda x: x.argmax(dim=1, keepdim=True), (4, 1), [[0], [1], [2], [0]]),
    ],
)
def test_choices_are_different_and_even(function: Any, shape: tuple[int, ...], values: Any) -> None:
    seen = []

    class Reads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            chosen = function(self.scale * x)
            assert chosen.shape == shape
            seen.append(chosen.tolist())
            return x

    module = Reads()
    module.scale = nn.Parameter(torch.ones(()))
    assert trace(module, torch.randn(4, 3)).assumptions == (EVEN_CHOICES,)
    assert seen == [values]


def test_a_list_of_scalars_is_known() -> None:
    class Splits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            half = torch.arange(x.shape[0], device=x.device).max() // 2
            return x.split(torch.tensor([half, x.shape[0] - half], device=x.device).tolist())[0] + 1

    assert trace(Splits(), torch.randn(7, 2)).layers[-1].outputs[0].shape == (3, 2)


def test_known_masks_pick_from_what_only_weights_could_tell() -> None:
    class Picks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            keep = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
            rows = torch.arange(2, device=x.device)
            keep[list(rows)] = False
            return self.linear(x)[keep]

    found = trace(Picks(), torch.randn(6, 4))
    assert found.layers[-1].outputs[0].shape == (4, 4)
    assert found.assumptions == ()


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("jetmoe", {**TINY, "num_local_experts": 4, "kv_channels": 8}),
        ("switch_transformers", {**TINY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2,
                                 "num_heads": 4, "num_experts": 4, "num_sparse_encoder_layers": 1}),
        ("openai_privacy_filter", {**TINY, "pad_token_id": 0, "eos_token_id": 1, "num_local_experts": 4,
                                   "num_experts_per_tok": 2, "head_dim": 8}),
    ],
)  # fmt: skip
def test_mixtures_of_experts_run_evenly(tmp_path: Path, model_type: str, config: dict[str, Any]) -> None:
    found = tiny(tmp_path, model_type, **config)
    assert found.flop > 0
    assert found.assumptions == (EVEN_CHOICES,)


def test_documents_with_boxes_and_an_image(tmp_path: Path) -> None:
    config = {**TINY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "image_size": 32, "patch_size": 16}
    assert tiny(tmp_path, "udop", **config).flop > 0


# --- inputs of types that no rule by name serves


def load(name: str, **size: Any) -> Network:
    pytest.importorskip("transformers")
    return resolve(f"hf:{name}", InputSize(**size))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("timesformer", {"pixel_values": (2, 8, 3, 224, 224)}),
        ("xclip", {"pixel_values": (2, 8, 3, 224, 224), "input_ids": (2, 77)}),
        ("efficientloftr", {"pixel_values": (2, 2, 3, 480, 480)}),
        ("siglip2", {"pixel_values": (2, 256, 768), "spatial_shapes": (2, 2), "input_ids": (2, 64)}),
        ("kimi_k25_vision", {"pixel_values": (512, 3, 14, 14), "grid_thw": (2, 3)}),
        ("gemma4_vision", {"pixel_values": (2, 144, 768), "pixel_position_ids": (2, 144, 2)}),
        ("blip_2_qformer", {"query_embeds": (2, 32, 768), "encoder_hidden_states": (2, 257, 1408)}),
        ("lxmert", {"visual_feats": (2, 36, 2048), "visual_pos": (2, 36, 4)}),
        ("clap", {"input_features": (2, 1, 1001, 64), "input_ids": (2, 128)}),
        ("dac", {"input_values": (2, 1, 16000)}),
        ("speecht5", {"input_values": (2, 128, 768), "decoder_input_values": (2, 128, 768)}),
        ("mimi_decoder", {"latents": (2, 512, 13)}),
        ("gemma4_audio", {"input_features": (2, 400, 128)}),
        ("dia", {"input_ids": (2, 128), "decoder_input_ids": (2, 128, 9)}),
        ("xmod", {"lang_ids": (2,)}),
        ("decision_transformer", {"states": (2, 20, 17), "actions": (2, 20, 4), "timesteps": (2, 20)}),
        ("informer", {"past_values": (2, 31), "future_values": (2, 24)}),
        ("musicgen", {"input_ids": (2, 128), "decoder_input_ids": (8, 128)}),
        ("perceiver", {"inputs": (2, 2048, 768)}),
    ],
)
def test_inputs_follow_the_documented_shapes(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    network = load(name, batch=2)
    assert {key: tuple(network.kwargs[key].shape) for key in shapes} == shapes
    found = trace(network.module, kwargs=network.kwargs)
    assert found.flop > 0
    assert {x.kind for x in found.unique() if not x.known} == set()


def test_twice_the_batch_is_twice_the_work() -> None:
    one, two = (trace(n.module, kwargs=n.kwargs).flop for n in (load("timesformer"), load("timesformer", batch=2)))
    assert two == 2 * one


@pytest.mark.parametrize(("name", "option"), [("dac", "image_size"), ("timesformer", "seq_len"), ("xmod", "shape")])
def test_a_size_without_a_say_is_refused(name: str, option: str) -> None:
    size = {option: (2, 3) if option == "shape" else 32}
    with pytest.raises(InputError, match=rf"does not apply to hf:{name}, which takes inputs of its own"):
        load(name, **size)


# --- configurations that leave something out


def written(folder: Path, **config: Any) -> str:
    pytest.importorskip("transformers")
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_heads_share_the_width_where_nothing_is_said(tmp_path: Path) -> None:
    sizes = {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
    module = load(written(tmp_path, model_type="nemotron", **sizes)).module
    assert module.layers[0].self_attn.k_proj.out_features == module.layers[0].self_attn.q_proj.out_features == 32


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model_type": "esm"}, "vocab_size"),
        ({"model_type": "lfm2_moe", **TINY}, "layer_types"),
        ({"model_type": "chameleon"}, "vocabulary_map"),
        ({"model_type": "qwen4_exp_text"}, "indexer_budget"),
    ],
)
def test_what_is_unset_is_named(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=rf"cannot be built: its configuration leaves {name} unset") as caught:
        load(written(tmp_path, **config))
    assert "\n" not in str(caught.value)


def test_what_is_filled_in_or_left_out_is_said(tmp_path: Path) -> None:
    sizes = {key: value for key, value in TINY.items() if key != "num_key_value_heads"}
    assert load(written(tmp_path, model_type="nemotron", **sizes)).assumptions == (CONVENTION,)
    assert load(written(tmp_path, model_type="nemotron", **TINY)).assumptions == ()
    (text_only,) = load("llava").assumptions
    assert text_only.startswith("runs on input_ids alone: what reads only pixel_values costs nothing")
    assert trace_network(load("llava")).assumptions == (text_only,)
    assert load("clip").assumptions == load("bert").assumptions == ()
    assert "24 steps" in load("informer").assumptions[0] and load("informer", seq_len=12).assumptions == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", -1),
        ("num_attention_heads", 0),
        ("hidden_size", -768),
        ("n_layer", -3),
        ("num_hidden_layers", 1_000_000),
        ("vocab_size", 0),
        ("intermediate_size", 0),
    ],
)
def test_sizes_that_no_network_has_are_refused(tmp_path, key, value) -> None:
    name = written(tmp_path, model_type="gpt2" if key == "n_layer" else "bert", **{key: value})
    with pytest.raises(InputError, match=f"says num_hidden_layers {value}" if key == "n_layer" else f"says {key} {value}"):
        load(name)


@pytest.mark.parametrize("name", ["gemma4_text", "embedding_gemma2_text", "dots3_note_text"])
def test_sizes_that_vary_by_layer_are_left_alone(name: str) -> None:
    if f"hf:{name}" not in zoo_names("hf"):
        pytest.skip("not part of this transformers")
    assert load(name).assumptions == ()


def test_the_forecast_is_as_long_as_asked() -> None:
    assert tuple(load("informer", seq_len=12).kwargs["future_values"].shape) == (1, 12)
    assert load("informer").module.config.prediction_length == FORECAST_STEPS


def test_a_missing_library_is_named_in_a_few_words() -> None:
    pytest.importorskip("transformers")
    if find_spec("natten"):
        pytest.skip("natten is installed")
    with pytest.raises(InputError, match=r"cannot be built: DinatModel requires the natten library: install it$"):
        load("dinat")


def test_what_a_forward_finds_unset_is_named(tmp_path: Path) -> None:
    sizes = {
        **TINY,
        "first_k_dense_replace": 0,
        "n_routed_experts": 4,
        "moe_intermediate_size": 16,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
    }
    network = load(written(tmp_path, model_type="deepseek_v2", **sizes, num_experts_per_tok=None))
    with pytest.raises(InputError, match=r"its configuration leaves num_experts_per_tok unset$"):
        trace_network(network)


# --- what a rule makes up, by names of parameters


def completed(names: str, config: dict[str, Any], *, batch: int = 2, image_size: int | None = None, **inputs: Any) -> Any:
    """What stands for the parameters `names`; one that ends in `=` has a default, so that it is not required."""
    taken = {
        x.rstrip("="): Parameter(x.rstrip("="), Parameter.KEYWORD_ONLY, default=None if x.endswith("=") else Parameter.empty)
        for x in names.split()
    }
    return complete(SimpleNamespace(**config), inputs, taken, InputSize(batch=batch, image_size=image_size))


@pytest.mark.parametrize(
    ("config", "image_size", "side", "values"),
    [
        ({"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 4}, 100, 6, 4 * 2 * 14 * 14),
        ({"patch_size": 14, "merge_size": 3, "num_channels": 1}, 100, 6, 14 * 14),
        ({"patch_size": 16, "spatial_merge_size": 2}, 20, 2, 3 * 16 * 16),
        ({"patch_size": 16}, None, 14, 3 * 16 * 16),
    ],
)
def test_patches_form_a_grid_whose_sides_merge_evenly(config: Any, image_size: int | None, side: int, values: int) -> None:
    image = torch.empty(2, 3, 224, 224, device="meta")
    given = completed("pixel_values image_grid_thw", config, image_size=image_size, pixel_values=image)
    assert given["pixel_values"].shape == (2 * side * side, values), "an image by another rule gives way to its patches"
    seen: list[Any] = []
    trace(networks.Runs(lambda x: seen.append(x.tolist()) or x + 1), given["image_grid_thw"])
    assert seen == [[[1, side, side]] * 2]


def test_what_is_given_or_has_a_default_is_not_made_up_but_for_what_is_always_needed() -> None:
    ids, series = torch.empty(2, 7, dtype=torch.int64, device="meta"), torch.empty(2, 5, 1, device="meta")
    given = completed("past_values bbox= query_embeds=", {"hidden_size": 8}, input_ids=ids, past_values=series)
    assert list(given) == ["input_ids", "past_values", "bbox"]
    assert given["past_values"] is series and given["bbox"].shape == (2, 7, 4)


def test_queries_are_those_of_each_sample() -> None:
    """A Q-Former has 32 of the width of its layers."""
    assert completed("query_embeds", {"hidden_size": 8}, batch=3)["query_embeds"].shape == (3, 32, 8)


@pytest.mark.parametrize(("shape", "frames"), [((2, 80, 300), (2, 300)), ((2, 300, 80), (2, 300)), ((2, 300), (2, 300))])
def test_masks_of_frames_hide_none(shape: tuple[int, ...], frames: tuple[int, int]) -> None:
    mask = completed("input_features_mask=", {}, input_features=torch.empty(shape, device="meta"))["input_features_mask"]
    seen: list[Any] = []
    trace(networks.Runs(lambda x: seen.append(bool(x.all())) or ~x), mask)
    assert (mask.shape, mask.dtype, seen) == (frames, torch.bool, [True])
