"""Requests to language models: prompts, steps on a cache, and that no step differs from its own trace."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from math import exp, sqrt

import numpy as np
import pytest
import torch
from test_cli import one_line

import wattlayer as wl
from wattlayer.adapters.huggingface import AS_DECODER, EAGER_ATTENTION, LATENT_CACHE, NO_SOURCE, TEXT_ALONE
from wattlayer.cli.output import rendered
from wattlayer.errors import InputError, UncoveredKindError
from wattlayer.estimate import told_of_launches
from wattlayer.generation import Call, decoding, predict_generation
from wattlayer.generation.decoding import EVERY_LOGIT, NotAffineError, Passes, between, segments
from wattlayer.report.accounting import Assumptions, account
from wattlayer.report.generation import generation_tables
from wattlayer.report.quantities import money, small
from wattlayer.trace.assumptions import EVEN_CHOICES

pytest.importorskip("transformers")

SMALL = {
    "llama": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8,
              "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 4096},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100},
    "mistral": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8,
                "num_key_value_heads": 4, "vocab_size": 100, "sliding_window": 40},
    "mixtral": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8,
                "num_key_value_heads": 4, "vocab_size": 100, "num_local_experts": 4, "sliding_window": None},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 100},
    "rwkv": {"hidden_size": 64, "attention_hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 100, "context_length": 4096},
}  # fmt: skip


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    for name, sizes in SMALL.items():
        (folder / f"{name}.json").write_text(json.dumps({"model_type": name, **sizes}))
    return {name: f"hf:{folder / name}.json" for name in SMALL}


def passes(name: str, batch: int = 2, dtype: str = "bfloat16") -> Passes:
    from wattlayer.adapters.huggingface import load_causal

    return Passes(load_causal(name, 200, dtype), batch, "conv")


def test_a_cache_that_does_not_fit_is_told(tmp_path):
    path = tmp_path / "llama.json"
    sizes = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 4, "vocab_size": 100, "max_position_embeddings": 1 << 17}  # fmt: skip
    path.write_text(json.dumps({"model_type": "llama", **sizes}))
    written = 2 * 4 * 512 * 2  # bytes a token: keys and values, four layers, 512 numbers of two bytes
    for prompt, batch, fits in ((1000, 128, True), (40_000, 128, False)):
        g = predict_generation(f"hf:{path}", prompt, 2, batch=batch, dtype="bfloat16", hardware="a30")
        told = [x for x in g.assumptions if "of memory" in x]
        assert bool(told) is not fits, (prompt, batch)
        assert not any("of memory" in x for x in g.prefill.assumptions), "a prompt begins with an empty cache"
        assert g.to_json()["assumptions"] == list(g.assumptions)
    held = float(told[0].split("at least ")[1].split(" GB")[0])
    assert held == pytest.approx(40_001 * 128 * written / 1e9, rel=0.01), "weights are small beside it"
    assert told[0] in rendered(generation_tables(g), 200).replace("\n", " ")


def test_what_a_decoder_leaves_out_and_does_beside_is_told(tmp_path):
    path = tmp_path / "trocr.json"
    sizes = {"d_model": 64, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "vocab_size": 100}
    path.write_text(json.dumps({"model_type": "trocr", **sizes}))
    assert {NO_SOURCE, EVERY_LOGIT} < set(predict_generation(f"hf:{path}", 8, 1, hardware="a30").assumptions)


def test_others_compute_the_last_logits_and_read_no_encoder(configs):
    for name in configs.values():
        assert not {NO_SOURCE, EVERY_LOGIT} & set(predict_generation(name, 8, 1, hardware="a30").assumptions)


@pytest.mark.parametrize("name", SMALL)
def test_no_step_differs_from_its_own_trace(configs, name):
    first, last = 20, 83
    found = list(segments(passes(configs[name]), first, last))
    assert [x.first for x in found] == [first, *(x.last + 1 for x in found[:-1])] and found[-1].last == last
    for context in (20, 21, 37, 38, 39, 40, 41, 52, 66, 83):
        segment = next(x for x in found if x.first <= context <= x.last)
        of = segment.last - segment.first
        made = [between(a, b, context - segment.first, of) for a, b in segment.calls]
        assert made == list(passes(configs[name]).step(context).layers)
    assert (len(found) > 1) == (name == "mistral"), "only a window that fills up bends the sizes"


def test_a_token_costs_the_experts_that_it_goes_to_however_many_there_are(tmp_path):
    """Two of four experts or of 64: a step of one token reads two, a prompt of many tokens all."""
    steps, prompts = [], []
    for experts in (4, 64):
        path = tmp_path / f"{experts}.json"
        sizes = SMALL["mixtral"] | {"hidden_size": 256, "intermediate_size": 896, "num_local_experts": experts}
        path.write_text(json.dumps({"model_type": "mixtral", **sizes}))
        request = wl.predict_generation(f"hf:{path}", 64, 2, hardware="a30", dtype="float16")
        assert EVEN_CHOICES in request.prefill.trace.assumptions
        products = [x.read_bytes for x in request.prefill.trace.layers if x.kind == "_grouped_mm"]
        prompts.append(sum(products))
        steps.append(request.step_energy_j[0])
    assert steps[1] == pytest.approx(steps[0], rel=0.05)  # the router's own product grows
    assert prompts[1] > 8 * prompts[0]


def test_a_step_reads_the_cache_that_the_prompt_filled(configs):
    step = passes(configs["llama"]).step(50)
    attention = [x for x in step.layers if x.kind == "scaled_dot_product_attention"]
    assert [x.operand("query").shape for x in attention] == [(2, 8, 1, 8)] * 2
    assert {x.operand("key").shape[2] for x in attention} == {51}
    grown = passes(configs["llama"]).step(51)
    cache_bytes = 2 * 2 * 8 * 2 * 2  # keys and values, 2 KV heads of 8 numbers of 2 bytes, batch 2
    for a, b in zip(step.layers, grown.layers):
        if a.kind == "cat" and a != b:
            assert b.write_bytes - a.write_bytes == cache_bytes // 2  # one cat for keys, one for values


def test_only_the_last_position_has_logits(configs):
    heads = [x for x in passes(configs["llama"]).prompt(30).layers if x.outputs[0].shape[-1] == 100]
    assert [x.outputs[0].shape for x in heads] == [(2, 1, 100)]


def test_a_request_is_its_prompt_and_all_of_its_steps(configs):
    g = predict_generation(configs["llama"], 20, 8, batch=2, dtype="bfloat16")
    model, own = wl.load_model("a30"), passes(configs["llama"])
    steps = [wl.estimate(own.step(c), model) for c in range(20, 28)]
    assert g.step_energy_j == pytest.approx([x.energy_j for x in steps], rel=1e-9)
    assert g.step_time_s == pytest.approx([x.time_s for x in steps], rel=1e-9)
    assert g.prefill.energy_j == pytest.approx(wl.estimate(own.prompt(20), model).energy_j, rel=1e-12)
    assert g.energy_j == pytest.approx(g.prefill.energy_j + sum(x.energy_j for x in steps), rel=1e-9)
    assert list(g.context_tokens) == list(range(20, 28)) and g.prompt_tokens == 20 and g.batch == 2
    assert g.energy_per_request_j == pytest.approx(g.energy_j / 2) and g.energy_per_token_j == pytest.approx(g.energy_j / 16)
    assert sum(g.decode_kinds_j.values()) == pytest.approx(g.decode_energy_j, rel=1e-9)
    assert g.interval_j[0] < g.energy_j < g.interval_j[1]
    assert account(g, Assumptions(functional_unit="1,000 tokens")).energy_j.value == pytest.approx(1000 * g.energy_per_token_j)
    assert account(g, Assumptions(functional_unit="3 requests")).energy_j.value == pytest.approx(3 * g.energy_per_request_j)
    with pytest.raises(InputError, match="input tokens: a request is counted by the tokens that it writes"):
        account(g, Assumptions(functional_unit="1,000 input tokens"))
    alone = predict_generation(configs["llama"], 20, 0, batch=2, dtype="bfloat16")
    read = account(alone, Assumptions(functional_unit="1,000 input tokens"))
    assert read.energy_j.value == pytest.approx(1000 * alone.energy_per_token_j)
    with pytest.raises(InputError, match="new tokens: a request is counted by the tokens that it reads"):
        account(alone, Assumptions(functional_unit="1,000 new tokens"))
    covered = g.prefill.covered_frac * g.prefill.energy_j + sum(x.covered_frac * x.energy_j for x in steps)
    assert g.covered_frac == pytest.approx(covered / g.energy_j, rel=1e-9)


def test_steps_over_a_window_that_fills_up_cost_what_their_traces_cost(configs):
    g = predict_generation(configs["mistral"], 30, 24, dtype="bfloat16")
    own, model = passes(configs["mistral"], batch=1), wl.load_model("a30")
    assert g.step_energy_j == pytest.approx([wl.estimate(own.step(c), model).energy_j for c in range(30, 54)], rel=1e-9)


def test_a_call_is_as_unsure_as_its_steps_by_what_each_costs(configs, monkeypatch):
    """Attention over n tokens costs n mJ and is n % unsure, here: long steps count for more."""
    plain = wl.EnergyModel.predict

    def predict(self, layers, *more):
        n = np.array([float(x.inputs[1].shape[-2] if x.group == "attention" else 1) for x in layers])
        return replace(plain(self, layers, *more), energy_j=n / 1000, half_width=n / 100)

    monkeypatch.setattr(wl.EnergyModel, "predict", predict)
    (attention,) = [x for x in predict_generation(configs["gpt2"], 4, 8).calls if "attention" in x.kind]
    tokens = range(5, 13)  # a step reads its own token as well
    assert attention.energy_j == pytest.approx(2 * sum(tokens) / 1000), "of two blocks"
    assert attention.half_width == pytest.approx(sum(n * n for n in tokens) / sum(tokens) / 100)


def test_waiting_for_the_host_costs(configs):
    graph, eager = (predict_generation(configs["gpt2"], 4, 3, mode=x, hardware="h100-sxm") for x in ("graph", "eager"))
    own, model = passes(configs["gpt2"], 1, "float32"), wl.load_model("h100-sxm")
    assert eager.step_energy_j[0] == pytest.approx(wl.estimate(own.step(4), model, mode="eager").energy_j, rel=1e-9)
    assert eager.energy_j > graph.energy_j
    assert eager.gap_energy_j == pytest.approx(eager.decode_energy_j - graph.decode_energy_j, rel=1e-9)
    steps = [wl.estimate(own.step(c), model, mode="eager") for c in range(4, 7)]
    low, high = (sum(x) for x in zip(*(x.gap_interval_j for x in steps)))
    assert (low, high) == pytest.approx(eager.gap_interval_j, rel=1e-9), "the host is off by one share in all steps"
    above_j = np.hypot(graph.decode_interval_j[1] - graph.decode_energy_j, high - eager.gap_energy_j)
    assert eager.decode_interval_j[1] - eager.decode_energy_j == pytest.approx(above_j, rel=1e-9)
    text = rendered(*generation_tables(eager))
    (gaps,) = (line.split() for line in text.splitlines() if "(launch gaps)" in line)
    for g in (graph, eager):  # gaps are of no kind: what is known of layers does not depend on them
        record = g.to_json()
        assert record["total"]["gap_energy_j"] == pytest.approx(g.gap_energy_j + g.prefill.gap_energy_j)
        decode = record["decode"]
        assert sum(decode["kinds"].values()) + decode["gap_energy_j"] == pytest.approx(decode["energy_j"])
        assert g.covered_frac == pytest.approx(graph.covered_frac) and g.extrapolated_frac == pytest.approx(
            graph.extrapolated_frac
        )
    assert gaps[-1] == f"{(eager.gap_energy_j + eager.prefill.gap_energy_j) / eager.energy_j:.1%}"


def test_a_step_that_waits_for_the_host_takes_as_long_as_its_own_trace(configs):
    g = predict_generation(configs["gpt2"], 4, 2, mode="eager", hardware="h100-sxm")
    steps = [wl.estimate(passes(configs["gpt2"], 1, "float32").step(c), wl.load_model("h100-sxm"), mode="eager") for c in (4, 5)]
    assert g.gap_energy_j > 0 and g.step_time_s == pytest.approx([x.time_s for x in steps], rel=1e-9)


def test_waiting_counts_in_the_power_of_a_request_and_in_no_share_of_its_layers(configs):
    """The prompt's layers were all measured; a call of steps that was not costs as much as they do."""
    g = predict_generation(configs["gpt2"], 4, 2, mode="eager", hardware="h100-sxm")
    record = g.to_json()["total"]
    assert record["power_w"] == pytest.approx((g.prefill.energy_j + g.step_energy_j.sum()) / record["time_s"], rel=1e-9)
    measured = replace(g.prefill, covered=np.ones_like(g.prefill.covered))
    layers_j = measured.energy_j - measured.gap_energy_j
    assert measured.gap_energy_j > 0.1 * layers_j
    assert replace(g, prefill=measured, calls=(Call("a", layers_j, 0.0, 0.0, 0.1),)).covered_frac == pytest.approx(0.5)


def test_weights_in_int8_are_read_as_bytes(configs, tmp_path):
    half, int8 = (predict_generation(configs["llama"], 8, 4, dtype=x) for x in ("float16", "int8"))
    assert int8.trace.dtype == "int8" and any("int8" in x for x in int8.trace.assumptions)
    linear = [x for x in int8.trace.layers if x.kind == "linear"]
    assert linear and all(x.operand("weight").dtype == "int8" and x.dtype == "float16" for x in linear)
    assert len(int8.step_energy_j) == 4 and int8.decode_kinds_j["linear"] < half.decode_kinds_j["linear"]
    # reading weights is what a step of wide layers costs
    wide = SMALL["llama"] | {"hidden_size": 2048, "intermediate_size": 5632}
    (tmp_path / "wide.json").write_text(json.dumps({"model_type": "llama", **wide}))
    half, int8 = (predict_generation(f"hf:{tmp_path / 'wide.json'}", 8, 4, dtype=x) for x in ("float16", "int8"))
    assert int8.decode_kinds_j["linear"] < 0.9 * half.decode_kinds_j["linear"]
    int4 = predict_generation(f"hf:{tmp_path / 'wide.json'}", 8, 4, dtype="int4")
    assert int4.trace.dtype == "int4" and int4.decode_kinds_j["linear"] < 0.9 * int8.decode_kinds_j["linear"]


@pytest.mark.parametrize(("outer", "inner"), [("llama4", "llama4_text"), ("llava", "llama"), ("gemma3", "gemma3_text")])
def test_of_a_network_that_sees_the_decoder_of_text_is_priced(tmp_path, outer, inner):
    sizes = {**SMALL["llama"], "head_dim": 16, "intermediate_size_mlp": 96, "num_local_experts": 2, "pad_token_id": 0}
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    whole.write_text(json.dumps({"model_type": outer, "text_config": {"model_type": inner, **sizes}}))
    part.write_text(json.dumps({"model_type": inner, **sizes}))
    found, text = (predict_generation(f"hf:{x}", 8, 4) for x in (whole, part))
    linear = [[x for x in request.trace.layers if x.kind == "linear"] for request in (found, text)]
    assert linear[0] == linear[1]
    # the class that Gemma 3 has for both looks for images among the tokens, in four small operators
    extra = 0.1 if outer == "gemma3" else 1e-3
    assert text.energy_per_token_j <= found.energy_per_token_j <= (1 + extra) * text.energy_per_token_j
    assert TEXT_ALONE in found.trace.assumptions and TEXT_ALONE not in text.trace.assumptions


def test_a_decoder_that_sees_and_has_no_class_of_text_alone_is_run_on_text(tmp_path):
    sizes = {**SMALL["llama"], "head_dim": 16}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "qwen3_vl", "text_config": sizes}))
    request = predict_generation(f"hf:{path}", 8, 4)
    linear = sum(x.flop for x in request.trace.layers if x.kind == "linear")
    # queries, outputs, keys, values and the gated MLP of two layers on 8 tokens, the vocabulary on the last one
    assert linear == 2 * (8 * 2 * (2 * 64 * 128 + 2 * 64 * 32 + 3 * 64 * 96) + 64 * 100)
    assert TEXT_ALONE in request.trace.assumptions and len(request.step_energy_j) == 4
    with pytest.raises(InputError, match="is no decoder of text"):
        predict_generation("hf:t5", 8, 4)


def test_what_a_checkpoint_is_published_in_is_told_where_it_is_priced_otherwise(tmp_path):
    path = tmp_path / "config.json"

    def said(asked, /, **others):
        path.write_text(json.dumps({"model_type": "llama", **SMALL["llama"], **others}))
        passes = (
            predict_generation(f"hf:{path}", 8, 1, dtype=asked).trace,
            wl.predict(f"hf:{path}", seq_len=8, dtype=asked).trace,
        )
        assert passes[0].assumptions == passes[1].assumptions
        return [x for x in passes[0].assumptions if "its configuration" in x]

    assert said("float32") == said("bfloat16", torch_dtype="bfloat16") == said("float16", dtype="float32") == []
    assert said("float32", torch_dtype="bfloat16") == [
        "its configuration is of weights in bfloat16, which are priced in float32, as --dtype says"
    ]
    awq = {"quant_method": "awq", "bits": 4}
    assert said("float16", torch_dtype="float16", quantization_config=awq) == [
        "its configuration is of quantised weights (awq, 4 bits): --dtype int8 and int4 price such, others do not"
    ]
    assert "(fp8)" in said("float16", quantization_config={"quant_method": "fp8"})[0]


def test_attention_that_transformers_writes_out_is_told(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"model_type": "gptj", "n_embd": 64, "n_head": 4, "n_layer": 2, "rotary_dim": 16, "vocab_size": 100})
    )
    request = predict_generation(f"hf:{path}", 8, 1)
    assert EAGER_ATTENTION in request.trace.assumptions and any(x.kind == "softmax" for x in request.trace.layers)
    assert EAGER_ATTENTION in wl.predict(f"hf:{path}", seq_len=8).trace.assumptions
    sizes = SMALL["llama"] | {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1}
    latent = {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "topk_group": 1,
    }
    path.write_text(json.dumps({"model_type": "deepseek_v3", **sizes, **latent, "num_key_value_heads": 8}))
    assert LATENT_CACHE in predict_generation(f"hf:{path}", 8, 1).trace.assumptions
    path.write_text(json.dumps({"model_type": "llama", **SMALL["llama"]}))
    assert predict_generation(f"hf:{path}", 8, 1).trace.assumptions == ()


@pytest.mark.parametrize(("name", "share"), [("mixtral", "82%"), ("gpt2", "94%"), ("llama", None)])
def test_weights_that_stay_in_half_precision_are_told(configs, name, share):
    said = [x for x in predict_generation(configs[name], 8, 1, dtype="int4").trace.assumptions if "stay in float16" in x]
    assert [x.split()[0] for x in said] == ([] if share is None else [share])


def test_an_encoder_that_is_run_as_a_decoder_says_so():
    assert AS_DECODER in predict_generation("hf:bert", 4, 2).to_json()["assumptions"]
    for decoder in ("hf:gpt2", "hf:gpt_neox"):
        assert AS_DECODER not in predict_generation(decoder, 4, 2).trace.assumptions


@pytest.mark.parametrize("name", ["mamba", "rwkv"])
def test_a_state_of_one_size_makes_steps_that_all_cost_the_same(configs, name):
    g = predict_generation(configs[name], 16, 4)
    assert len(set(g.step_energy_j)) == 1
    longer = predict_generation(configs[name], 160, 4)
    assert longer.step_energy_j[0] == g.step_energy_j[0] and longer.prefill.energy_j > g.prefill.energy_j
    weights = {x.operand("weight") for x in g.trace.layers if x.kind == "linear"}
    assert not any(x.kind == "div" and x.inputs[0].shape in {w.shape for w in weights if w} for x in g.trace.layers), (
        "weights are divided once, not at every pass"
    )


def test_rwkv_leaves_its_weights_alone_in_training_too(configs):
    from wattlayer.adapters.huggingface import load_causal

    network = load_causal(configs["rwkv"], 16, "float32")
    for mode in (True, False, True):
        traced = wl.trace(network.module, kwargs={"input_ids": torch.zeros(1, 8, dtype=torch.int64)}, train_mode=mode)
        of_weights = [x for x in traced.layers if x.kind in ("mul", "div") and x.inputs[0].shape in ((64, 64), (64, 256))]
        assert not of_weights and ("div" in {x.kind for x in traced.layers})


def test_a_prompt_alone(configs):
    g = predict_generation(configs["gpt2"], 16)
    assert g.energy_j == g.prefill.energy_j and g.decode_energy_j == 0 and len(g.step_energy_j) == 0
    assert g.energy_per_token_j == pytest.approx(g.energy_j / 16) and g.tokens_per_s == 0


def test_a_prompt_of_one_token_is_told_only_where_tokens_follow(configs):
    assert "the prompt is a single token" not in predict_generation(configs["gpt2"]).assumptions
    assert "the prompt is a single token" in predict_generation(configs["gpt2"], decode=1).assumptions


def test_tokens_a_second_and_a_joule_are_of_the_whole_batch(configs):
    g = predict_generation(configs["llama"], 8, 4, batch=2, dtype="bfloat16")
    assert g.tokens_per_s == pytest.approx(2 * 4 / g.step_time_s.sum())
    assert g.tokens_per_j == pytest.approx(2 * 4 / g.energy_j)


def test_the_last_step_is_the_one_on_the_fullest_cache(configs):
    g = predict_generation(configs["gpt2"], 8, 4)
    attention = [x for x in g.last_step.layers if x.kind == "scaled_dot_product_attention"]
    assert {x.operand("key").shape[2] for x in attention} == {8 + 4}, "three tokens written before, and its own"


def test_a_request_tells_what_share_of_it_launches_take_as_they_were_measured(configs):
    """Steps of a small decoder are launches where layers were measured one by one; on boards measured in graphs none are."""
    a30 = predict_generation(configs["gpt2"], 8, 4, hardware="a30")
    steps = [wl.estimate(a30.last_step, "a30"), a30.prefill]
    assert min(x.launch_bound_frac for x in steps) <= a30.launch_bound_frac <= max(x.launch_bound_frac for x in steps)
    assert a30.launch_bound_frac > 0.5 and a30.assumptions[-1] == told_of_launches(a30.launch_bound_frac)[0]
    assert a30.to_json()["total"]["launch_bound_frac"] == a30.launch_bound_frac
    for other in ({"hardware": "h200-sxm"}, {"hardware": "a30", "mode": "eager"}):
        g = predict_generation(configs["gpt2"], 8, 4, **other)
        assert g.launch_bound_frac == 0.0 and not any("launch" in text for text in g.assumptions)


def test_steps_are_summed_up_by_what_their_calls_are_worth(configs):
    """Calls of 2, 3 and 2 J, of which the first is extrapolated and the second was measured."""
    g = predict_generation(configs["gpt2"], 8, 4)
    calls = (Call("a", 2.0, 0.0, 2.0, 0.1), Call("b", 3.0, 3.0, 0.0, 0.2), Call("a", 2.0, 0.0, 0.0, 0.1))
    prompt_j = g.prefill.energy_j
    g = replace(g, calls=calls, step_energy_j=np.array([7.0]))
    of_prompt = replace(g.prefill, covered=np.ones_like(g.prefill.covered), extrapolated=np.zeros_like(g.prefill.extrapolated))
    measured = replace(g, prefill=of_prompt)
    assert measured.extrapolated_frac == pytest.approx(2.0 / (prompt_j + 7.0))
    assert measured.covered_frac == pytest.approx((prompt_j + 3.0) / (prompt_j + 7.0))
    assert measured.decode_kinds_j == {"a": 4.0, "b": 3.0} and measured.uncovered_kinds() == ["a"]
    bound = replace(measured, calls=(Call("a", 2.0, 0.0, 0.0, 0.1, 1.5), Call("b", 5.0, 0.0, 0.0, 0.1, 0.5)))
    assert bound.launch_bound_frac == pytest.approx((measured.prefill.launch_bound_frac * prompt_j + 2.0) / (prompt_j + 7.0))
    calls = (Call("a", 2.0, 0.0, 0.0, 0.1), Call("b", 3.0, 0.0, 0.0, 0.1), Call("a", 2.0, 0.0, 0.0, 0.1))
    assert replace(measured, calls=calls).uncovered_kinds() == ["a", "b"], "4 J come before 3 J"


@pytest.mark.parametrize(
    ("correlation", "half_width"), [(0.0, 0.1 * sqrt(1.0 + 9.0) / 4), (0.5, 0.1 * sqrt(13.0) / 4), (1.0, 0.1)]
)
def test_calls_of_steps_err_together_as_far_as_the_model_says(configs, correlation, half_width):
    """Calls of 1 and 3 J that are each off by 0.1: of 10 and 16 J², which errors apart and together come to, half is 13."""
    g = predict_generation(configs["gpt2"], 8, 4)
    conformal = replace(g.model.conformal, correlation=correlation)
    model = replace(g.model, conformal=conformal, launches=replace(g.model.launches_or_assumed, sum_spread_frac=0.0))
    calls = (Call("a", 1.0, 1.0, 0.0, 0.1), Call("b", 3.0, 3.0, 0.0, 0.1))
    g = replace(g, prefill=replace(g.prefill, model=model), calls=calls, step_energy_j=np.array([4.0]))
    assert g.decode_interval_j == pytest.approx((4.0 * exp(-half_width), 4.0 * exp(half_width)))
    low, high = g.prefill.interval_j
    assert g.interval_j == pytest.approx((low + 4.0 * exp(-half_width), high + 4.0 * exp(half_width)))
    record = g.to_json()
    assert (record["decode"]["energy_low_j"], record["decode"]["energy_high_j"]) == g.decode_interval_j
    assert record["total"]["power_w"] == pytest.approx(g.energy_j / (g.prefill.time_s + g.step_time_s.sum()))


def test_a_kind_that_only_steps_have_is_refused_where_all_must_be_measured(configs, monkeypatch):
    """Of the prompt all is known, of steps the products of one row are not."""
    plain = wl.EnergyModel.predict

    def predict(self, layers, *more):
        step = [x.kind == "linear" and x.inputs[0].shape[-2] == 1 and x.outputs[0].shape[-1] != 100 for x in layers]
        return replace(plain(self, layers, *more), covered=~np.array(step))

    monkeypatch.setattr(wl.EnergyModel, "predict", predict)
    assert predict_generation(configs["llama"], 8, strict=True).energy_j > 0
    assert predict_generation(configs["llama"], 8, 2).energy_j > 0
    with pytest.raises(UncoveredKindError, match="linear"):
        predict_generation(configs["llama"], 8, 2, strict=True)


def test_a_mode_that_generation_is_not_priced_in_is_refused(configs):
    with pytest.raises(InputError, match="mode 'compiled' is not one of graph, eager"):
        predict_generation(configs["gpt2"], 8, 2, mode="compiled")


def test_a_decoder_whose_steps_need_too_many_traces_is_refused(configs, monkeypatch):
    monkeypatch.setattr(decoding, "MOST_TRACES", 2)
    own = passes(configs["gpt2"])
    assert own.step(3) is not own.step(4) and own.step(3) is own.step(3), "a trace that is there costs nothing"
    with pytest.raises(InputError, match="sizes of its steps do not follow from the length of its cache"):
        own.step(5)


@pytest.mark.parametrize(
    ("name", "tokens", "reason"),
    [
        ("resnet50", (4, 4), "'resnet50' is no language model"),
        ("hf:t5", (4, 4), "no decoder of text"),
        ("hf:vit", (4, 4), "no decoder of text"),
        ("hf:gpt2", (1000, 100), "1100 tokens are more than the 1024 positions"),
        ("hf:gpt2", (0, 4), "prefill 0 must be at least 1"),
        ("hf:gpt2", (4, -1), "decode -1 must be at least 0"),
        ("hf:gpt2", (1.5, 4), "prefill 1.5 is not a whole number"),
        ("hf:gpt2", (4, "2"), "decode '2' is not a whole number"),
    ],
)
def test_what_cannot_be_priced_is_refused_in_one_line(name, tokens, reason):
    with pytest.raises(InputError, match=reason):
        predict_generation(name, *tokens)


def test_a_printed_request_has_its_interval_and_all_that_is_to_be_minded(configs):
    g = predict_generation(configs["mixtral"], 8, 2, batch=2, hardware="h100-pcie")
    head, *minds = str(g).splitlines()
    low, high = (x / 2 for x in g.interval_j)
    assert f"{g.energy_per_request_j:.4g} J a request ({low:.4g} to {high:.4g} J at 90%)" in head
    assert minds == list(g.minds) and EVEN_CHOICES in minds
    assert minds[0] == g.model.caveat and minds[1].endswith(", ".join(g.uncovered_kinds())) and "far outside" in minds[2]


def test_a_narrow_terminal_keeps_the_names_of_phases_and_steps(configs, monkeypatch):
    monkeypatch.setattr("wattlayer.cli.output.narrow", lambda *_: True)
    text = rendered(*generation_tables(predict_generation(configs["gpt2"], 8, 3)))
    rows = [line.split() for line in text.splitlines()]
    assert [row[0] for row in rows if row[-1:] and row[-1].endswith("%") and len(row) == 4] == ["prefill", "decode"]
    assert ["tokens", "in", "the", "cache", "energy"] in rows and {"8", "9", "10"} <= {row[0] for row in rows if len(row) == 3}


def test_on_the_command_line(configs, run, tmp_path):
    words = ["predict", configs["llama"], "--prefill", "12", "--decode", "6", "--batch", "2", "--dtype", "bfloat16"]
    record = json.loads(run(*words, "--format", "json")[1])
    assert record["schema"] == 1 and record["generation"]["new_tokens"] == 6 and len(record["steps"]) == 6
    assert record["total"]["energy_j"] == pytest.approx(record["prefill"]["energy_j"] + record["decode"]["energy_j"])
    assert record["total"]["energy_j"] == pytest.approx(
        record["prefill"]["energy_j"] + sum(x["energy_j"] for x in record["steps"])
    )
    request = record["generation"]
    assert request["energy_per_request_low_j"] == record["total"]["energy_low_j"] / 2 < request["energy_per_request_j"]
    assert request["energy_per_request_j"] < request["energy_per_request_high_j"] == record["total"]["energy_high_j"] / 2
    for end in ("", "_low", "_high"):
        assert request[f"energy_per_token{end}_j"] == pytest.approx(request[f"energy_per_request{end}_j"] / 6)
    table = run(*words)[1]
    low, high = (small(request[f"energy_per_token_{end}_j"], "J") for end in ("low", "high"))
    assert f"({low} to {high}) a token written" in table
    assert "12 + 6 tokens" in table and "a request" in table and "tokens in the cache" in table
    assert "a token written, prompt included," in table and "energy is gross, idle included" in table
    unknown = record["total"]["uncovered_kinds"]
    assert unknown[0] in record["decode"]["kinds"] and set(record["prefill"]["uncovered_kinds"]) <= set(unknown)
    assert f"priced by the scaffold: {', '.join(unknown)}" in " ".join(table.split())
    assert record["assumptions"] == [told_of_launches(record["total"]["launch_bound_frac"])[0]], "the a30's layers are of loops"
    alone = json.loads(run(*words[:2], "--decode", "6", "--format", "json")[1])
    assert alone["assumptions"] == ["the prompt is a single token", told_of_launches(alone["total"]["launch_bound_frac"])[0]]
    _, text, said = run(*words, "--format", "csv")
    assert said.splitlines()[-1] == f"wattlayer: {record['assumptions'][0]}" and f": {', '.join(unknown)}\n" in said
    lines = list(csv.DictReader(text.splitlines()))
    assert [(x["phase"], x["context_tokens"], x["tokens"]) for x in lines[:2]] == [("prefill", "0", "12"), ("decode", "12", "1")]
    assert len(lines) == 1 + 6
    for name in ("energy_j", "time_s"):
        assert sum(float(x[name]) for x in lines) == pytest.approx(record["total"][name])
    assert run(*words, "--budget-j", "1e-9")[0] == 1
    saved = tmp_path / "saved.json"
    run(*words, "--format", "json", "--output", saved)
    report = tmp_path / "report.xml"
    report.write_text("earlier")
    refused = run(*words, "--budget-frac-of", saved, "--junit", report)
    one_line(refused, "budget-frac-of", "does not go with --prefill and --decode")
    assert not report.exists()
    one_line(run("predict", configs["llama"], "--budget-frac-of", saved), "is of a request (--prefill, --decode)")
    one_line(run(*words, "--seq-len", "5"), "seq-len 5 does not go with --prefill")
    for option in (("--top", "3"), ("--depth", "2"), ("--check-flops",)):
        one_line(run(*words, *option), f"{option[0][2:]} {option[-1] if len(option) > 1 else True} does not go with --prefill")
    assert "a token of the prompt," in run(*words, "--decode", "0")[1]
    one_line(run(*words, "--format", "html"), "html")


def test_what_requests_cost_is_stated_on_the_command_line(configs, run, tmp_path):
    """In words, as JSON by the file's suffix, and as the page of the Python call."""
    words = ["report", configs["llama"], "--prefill", "12", "--decode", "6", "--batch", "2"]
    stated = ["--price-per-kwh", "0.3", "--currency", "EUR", "--functional-unit", "1 million tokens"]
    g = predict_generation(configs["llama"], 12, 6, batch=2)
    told = account(g, Assumptions(price_per_kwh=0.3, currency="EUR", functional_unit="1 million tokens"))
    assert told.energy_j.value == pytest.approx(1e6 * g.energy_per_token_j) and told.inferences == pytest.approx(1e6 / 6)
    lines = run(*words, *stated, "--format", "table")[1].splitlines()
    assert (
        lines[0].endswith("batch 2 · 12 + 6 tokens · graph mode") and lines[1] == "for 1 million tokens = 166,666.666667 requests"
    )
    assert small(told.energy_j.value, "J") in lines[2] and money(told.cost.value, "EUR") in lines[3]
    assert g.assumptions[0] in " ".join(lines)
    assert run(*words, "--output", tmp_path / "a.json") == (0, "", "")
    record, whole = json.loads((tmp_path / "a.json").read_text()), json.loads(json.dumps(g.to_json()))
    assert record["generation"] == whole["generation"] and record["total"] == whole["total"] and "steps" not in record
    assert record["account"]["functional_unit"] == "1 request" and record["account"]["cost"] is None
    assert record["account"]["energy_j"]["high"] == pytest.approx(whole["generation"]["energy_per_request_high_j"])
    page = run(*words, *stated)[1]
    assert page == g.to_html(None, Assumptions(price_per_kwh=0.3, currency="EUR", functional_unit="1 million tokens"))
    assert run(*words)[1] == g.to_html(tmp_path / "a.html") == (tmp_path / "a.html").read_text()
    for more, reason in (
        (["--image-size", "64"], "image-size 64 does not go with --prefill"), (["--prefill", "0"], "prefill 0"),
    ):  # fmt: skip
        code, out, err = run(*words, *more)
        assert (code, out) == (2, "") and reason in err and err.count("\n") == 1


def test_sizes_that_do_not_move_in_whole_steps():
    assert between((1, 10), (1, 20), 3, 10) == (1, 13)
    with pytest.raises(NotAffineError):
        between(1, 2, 1, 2)
    with pytest.raises(NotAffineError):
        between((1,), (1, 2), 1, 2)
    with pytest.raises(NotAffineError):
        between("a", "b", 1, 2)


@pytest.mark.bm
def test_llama_3_8b(tmp_path, configs):
    from time import perf_counter

    start = perf_counter()
    predict_generation(configs["llama"], 8, 4, dtype="bfloat16")
    print(f"\nlibraries imported and a network of two blocks: {perf_counter() - start:.2f} s")

    config = tmp_path / "config.json"
    config.write_text(json.dumps({
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "vocab_size": 128256,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    }))  # fmt: skip
    start = perf_counter()
    for batch in (1, 16):
        g = predict_generation(f"hf:{config}", 2048, 256, batch=batch, dtype="bfloat16")
        print(f"Llama-3-8B on a30, 2,048 + 256 tokens, batch {batch}: {g}, {perf_counter() - start:.2f} s so far")
    assert np.all(np.diff(g.step_energy_j) > 0)
