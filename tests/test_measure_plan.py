"""What a campaign measures: shares, perturbations, Sobol points, LLM shapes, active selection, and the plan made of them."""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from random import Random
from types import SimpleNamespace

import pytest
import torch
from rig import SimulatedRig
from torch import nn

from wattlayer.errors import InputError
from wattlayer.layer import Layer
from wattlayer.measure.llm import DECODE, MODELS, PREFILL, llm_items
from wattlayer.measure.plan import DEFAULT_NETWORKS, Wanted, linear
from wattlayer.measure.propose import (
    ACTIVE_FRAC,
    CLOSURE_FRAC,
    _sobol_dtypes,
    _stages,
    closure_calls,
    network_calls,
    propose,
    traced_network,
)
from wattlayer.measure.rebuild import rebuild, try_run
from wattlayer.measure.record import meta, record
from wattlayer.measure.rig import NetworkCall
from wattlayer.measure.sample import (
    SHARES,
    Candidate,
    Roofline,
    budget_group,
    candidates,
    draw,
    most_uncertain,
    perturbed,
    sort_of,
)
from wattlayer.measure.shapes import SHAPES, Point, sobol_layers
from wattlayer.trace import trace

ROOFLINE = Roofline.of("h100-sxm", cuda=True)
DTYPES = [("bfloat16", "none"), ("float32", "none"), ("float32", "all")]


class Small(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*[nn.Conv2d(width, width, 3, padding=1) for _ in range(3)])
        self.pointwise, self.norm = nn.Conv2d(width, 2 * width, 1), nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.pointwise(self.body(torch.relu(self.stem(x)))))
        return self.head(torch.relu(x).mean((2, 3)))


def resolve(name, size):
    from wattlayer.adapters import Network

    kind, _, width = name.partition(":")
    if kind != "small":
        raise InputError(f"{name}: there is no such network")
    module = Small(int(width)).eval().to(getattr(torch, size.dtype))
    return Network(name, module, (meta(size.batch, 3, 32, 32, dtype=size.dtype),))


@pytest.fixture(scope="module")
def traced():
    return trace(Small(64).eval(), torch.zeros(8, 3, 32, 32), network="small:64")


@pytest.fixture(scope="module")
def sobol():
    return sobol_layers(150, DTYPES, ROOFLINE, 0)


# --- real layers


def test_shares_of_a_network_add_up_and_count_calls(traced):
    found = candidates(traced, ROOFLINE)
    assert sum(x.share for x in found) == pytest.approx(1.0)
    body = max(found, key=lambda x: x.share)
    assert body.layer.kind == "conv2d" and traced.unique()[body.layer] == 3


def test_a_rooflines_time_is_a_launch_and_the_longer_of_arithmetic_and_traffic():
    layer = record(torch.relu, meta(1000, dtype="float32"))  # 1,000 FLOP, 8,000 bytes
    assert Roofline(lambda _: 1e9, 1e12, 5e-6).time_s(layer) == pytest.approx(6e-6)
    assert Roofline(lambda _: 1e9, 1e9, 5e-6).time_s(layer) == pytest.approx(13e-6)
    assert [Roofline(lambda _: 1e9, 1e9, 5e-6, memory).fits(layer) for memory in (32e3, 33e3)] == [False, True]
    assert [Roofline(lambda _: 1e9, 1e9, 5e-6).fits(layer, longest_s) for longest_s in (13e-6, 14e-6)] == [False, True]
    assert [Roofline.of("unheard-of", cuda).memory_bytes for cuda in (True, False)] == [16e9, 4e9]


def test_of_a_layer_in_two_networks_the_larger_share_counts():
    small, large = (Candidate(linear(1, 64, 64, "float16"), share, name) for share, name in ((0.01, "small"), (0.5, "large")))
    for both in ([small, large], [large, small]):
        assert [x.source for x in draw(both, 4, Random(0), set())] == ["large"]
        assert [x.source for x in most_uncertain(both, 1, {small.layer: 1.0}, set())] == ["active:large"]


def test_inputs_behind_a_relu_are_known(traced):
    rectified = {sort_of(x.layer) for x in candidates(traced, ROOFLINE) if x.rectified}
    assert rectified == {"conv2d 3x3", "adaptive_avg_pool2d"}  # the body's first convolution and the mean; not the head


def test_a_layer_after_a_relu_that_takes_something_else_is_not_behind_it():
    class Beside(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.relu(x), torch.sigmoid(y)

    for rows, rectified in ((4, {"sigmoid"}), (5, set())):  # of the same shape it is taken for what the ReLU returned
        found = candidates(trace(Beside(), torch.zeros(4, 8), torch.zeros(rows, 8)), ROOFLINE)
        assert {x.layer.kind for x in found if x.rectified} == rectified


def pool(count: int, share: float = 0.1) -> list[Candidate]:
    return [Candidate(linear(n + 1, 64, 64, "float16"), share, "net") for n in range(count)]


def test_layers_are_drawn_by_the_root_of_their_share():
    heavy, light = pool(20, 0.09), [Candidate(linear(n + 1, 128, 64, "float16"), 0.01, "net") for n in range(20)]
    kept: Counter[str] = Counter()
    for seed in range(300):
        for item in draw(heavy + light, 4, Random(seed), set()):  # a quarter of 4 is one matrix product
            kept["heavy" if item.layer.inputs[0].shape[1] == 64 else "light"] += 1
    assert sum(kept.values()) == 300
    assert kept["heavy"] / kept["light"] == pytest.approx(3.0, rel=0.35)  # sqrt(9)


def test_drawing_keeps_to_the_budget_of_each_group_and_takes_nothing_twice():
    layers = [record(torch.relu, meta(8, n + 1)) for n in range(50)]
    mixed = pool(50) + [Candidate(x, 0.1, "net") for x in layers]
    taken: set[Layer] = set()
    first, second = draw(mixed, 100, Random(0), taken), draw(mixed, 100, Random(1), taken)
    assert Counter(x.layer.group for x in first) == {"matmul": 25, "elementwise": 12}
    assert not {x.layer for x in first} & {x.layer for x in second} and len(taken) == len(first) + len(second)


def test_sorts_of_convolutions_take_turns():
    def conv(index: int, kernel: int, groups: int = 1) -> Candidate:
        weight = meta(32, 32 // groups, kernel, kernel)
        layer = record(lambda x, w: nn.functional.conv2d(x, w, groups=groups), meta(index + 1, 32, 16, 16), weight)
        return Candidate(layer, 1.0 if kernel == 3 and groups == 1 else 1e-6, "net")

    mixed = [conv(n, 3) for n in range(20)] + [conv(n, 1) for n in range(5)] + [conv(n, 3, 32) for n in range(5)]
    drawn = draw(mixed, 36, Random(0), set())
    assert Counter(sort_of(x.layer) for x in drawn) == {"conv2d 3x3": 3, "conv2d 1x1": 3, "depthwise": 3}


# --- layers like them


def test_perturbed_layers_are_valid_calls_like_the_first(traced, sobol):
    random, changed, odd = Random(0), 0, 0
    for layer in [*traced.unique(), *sobol] * 2:
        found = perturbed(layer, random)
        if found is None:
            continue
        changed += 1
        assert found.kind == layer.kind and found != layer and found.dtype == layer.dtype and found.tf32 == layer.tf32
        sizes = {n for x in found.inputs for n in x.shape} - {n for x in layer.inputs for n in x.shape}
        odd += any(n % 8 for n in sizes)
        if sum(x.size_bytes for x in found.inputs) < 1e6 and found.flop < 1e8:
            try_run(rebuild(found, "cpu"))
    assert changed > 200 and 0.05 < odd / changed < 0.4


def test_a_perturbation_scales_by_half_to_a_fifth_more():
    layer, random = linear(7, 512, 512, "float16"), Random(0)
    sizes = [x.outputs[0].shape[1] for x in (perturbed(layer, random) for _ in range(200)) if x]
    assert 256 <= min(sizes) < 300 and 580 < max(sizes) <= 616


def test_a_size_that_an_argument_names_changes_there_as_well():
    layer = record(lambda x, w: nn.functional.rms_norm(x, (96,), w), meta(4, 96), meta(96))
    changed = [found for found in (perturbed(layer, Random(seed)) for seed in range(10)) if found]
    assert len(changed) > 5
    assert all(x.argument("normalized_shape") == x.inputs[1].shape == x.inputs[0].shape[1:] for x in changed)


def test_channels_last_stays_channels_last():
    x = meta(2, 32, 8, 8).to(memory_format=torch.channels_last)
    layer = record(nn.functional.conv2d, x, meta(16, 32, 1, 1))
    assert layer.inputs[0].channels_last
    changed = [found for found in (perturbed(layer, Random(seed)) for seed in range(20)) if found]
    assert changed and all(found.inputs[0].channels_last for found in changed)


# --- Sobol points and language models


def test_sobol_points_keep_the_budget_and_spread_over_time_and_intensity(sobol):
    assert len(set(sobol)) == len(sobol) > 120
    groups = Counter(budget_group(x) for x in sobol)
    for group, share in SHARES.items():
        assert groups[group] == pytest.approx(150 * share, abs=3), group
    decades = Counter(math.floor(math.log10(ROOFLINE.time_s(x))) for x in sobol)
    assert len(decades) >= 3 and max(decades.values()) < 0.7 * len(sobol)
    assert {x.dtype for x in sobol} == {"bfloat16", "float32"} and any(x.tf32 for x in sobol)
    assert {sort_of(x) for x in sobol} >= {"conv2d 1x1", "conv2d 3x3", "depthwise", "conv_transpose2d", "linear", "bmm"}


def test_sobol_points_repeat_with_their_seed(sobol):
    assert sobol_layers(150, DTYPES, ROOFLINE, 0) == sobol != sobol_layers(150, DTYPES, ROOFLINE, 1)


def test_every_group_of_the_budget_has_shapes():
    assert set(SHAPES) == set(SHARES) and sum(SHARES.values()) == pytest.approx(1.0)


def test_small_sobol_layers_run(sobol):
    small = [x for x in sobol if x.flop < 2e7 and sum(o.size_bytes for o in (*x.inputs, *x.outputs)) < 4e6]
    assert len(small) > 20
    for layer in small:
        try_run(rebuild(layer, "cpu"))


def test_language_models_at_prefill_and_decode():
    items = llm_items(["float32", "bfloat16"], ROOFLINE)
    assert {x.layer.dtype for x in items} == {"bfloat16"} and len({x.layer for x in items}) == len(items)
    attention = [x.layer for x in items if x.layer.kind == "scaled_dot_product_attention"]
    decoding = [x for x in attention if x.operand("query").shape[-2] == 1]
    assert len(attention) > len(decoding) > len(DECODE)
    assert any(x.operand("query").shape[1] > x.operand("key").shape[1] for x in decoding)  # grouped queries
    assert all(x.argument("is_causal") for x in attention if x not in decoding)
    widths = {x.layer.inputs[0].shape[-1] for x in items if x.layer.kind == "linear"}
    assert {sizes.width for sizes in MODELS} <= widths
    assert {x.layer.inputs[0].shape[:2] for x in items if x.layer.kind == "rms_norm"} <= {*PREFILL, *((n, 1) for n, _ in DECODE)}


def point(*unit: float, dtype: str = "float16") -> Point:
    return Point(list(unit), dtype, "none")


def made(group: str, *unit: float, which: int = 0) -> Layer:
    return SHAPES[group][which](point(*unit))


def test_a_coordinate_is_a_size_uniform_in_its_logarithm_or_one_of_some():
    assert [point(x).size(16, 1024) for x in (0.0, 0.5, 0.75)] == [16, 128, 362]  # 2^4, 2^7, 2^8.5
    assert point(0.5).size(8, 1024, 8) == 88  # 2^6.5 is 90.5, and 11 times 8 the nearest
    assert [point(x).one_of(3, 5, 7) for x in (0.0, 0.33, 0.34, 0.67, 0.99)] == [3, 3, 5, 7, 7]


def test_sobol_shapes_are_those_of_their_coordinates():
    assert [x.shape for x in made("matmul", 0.5, 0.0, 0.5).inputs] == [(128, 64), (1024, 64)]
    assert made("matmul", 0.5, 0.0, 0.5).outputs[0].shape == (128, 1024)
    conv = made("conv", 0.9, 0.9, 0.5, 0.0, 0.0, 0.0)  # 7x7 with a stride of 2 on 7x7 pixels, padded by 3 on each side
    assert conv.inputs[0].shape == (8, 8, 7, 7) and conv.outputs[0].shape == (8, 8, 4, 4)
    up = made("conv", 0.9, 0.0, 0.0, 0.0, 0.0, which=3)  # 4x4 kernels double 7x7 pixels
    assert up.inputs[0].shape == (1, 16, 7, 7) and up.outputs[0].shape == (1, 8, 14, 14)
    assert made("copy", 0.0, 0.0, 0.0).outputs[0].shape == (1, 128), "two rows of 64 in one"


@pytest.mark.parametrize(("decoding", "rows", "causal"), [(0.9, 1, False), (0.0, 64, True)])
def test_attention_of_sobol_points_shares_keys_and_masks_prompts_alone(decoding, rows, causal):
    """Two samples, four heads of keys with eight of queries each, of 128 numbers, on 64 tokens."""
    layer = made("attention", 0.2, 0.5, 0.9, 0.9, 0.0, decoding, 0.9)
    assert layer.operand("query").shape == (2, 32, rows, 128) and layer.operand("key").shape == (2, 4, 64, 128)
    assert bool(layer.argument("is_causal", False)) is causal


def test_every_shape_of_a_group_is_drawn(sobol):
    assert {
        "group_norm",
        "batch_norm",
        "layer_norm",
        "rms_norm",
        "gru",
        "lstm",
        "add",
        "mul",
        "relu",
        "gelu",
        "silu",
        "sigmoid",
    } <= {x.kind for x in sobol_layers(400, [("float32", "none")], ROOFLINE, 0)}


def test_sobol_points_of_another_seed_are_other_points():
    """The group has one shape, and one dtype is asked for, so that nothing but the points can differ."""
    softmax = [{x for x in sobol_layers(150, DTYPES[:1], ROOFLINE, seed) if x.kind == "softmax"} for seed in (0, 1)]
    assert softmax[0] and softmax[0] != softmax[1]


def test_sobol_points_fit_into_the_device():
    small = Roofline(lambda _: 1e15, 1e12, 5e-6, 4e6)
    found = sobol_layers(60, DTYPES, small, 0)
    assert found and all(sum(o.size_bytes for o in (*x.inputs, *x.outputs)) < 1e6 for x in found)


# --- a model's doubts


def test_active_selection_takes_the_widest_interval_times_share():
    options = pool(10)
    widths = {x.layer: float(index) for index, x in enumerate(options)}
    chosen = most_uncertain(options, 3, widths, taken := {options[9].layer})
    assert [x.layer for x in chosen] == [options[8].layer, options[7].layer, options[6].layer] and len(taken) == 4
    weighted = [Candidate(x.layer, 0.5 if index == 2 else 0.01, "net") for index, x in enumerate(options)]
    assert most_uncertain(weighted, 1, widths, set())[0].layer == options[2].layer
    with pytest.raises(InputError, match="gave no interval for 10 layers, the first a linear"):
        most_uncertain(options, 1, {}, set())


# --- the whole plan


def wanted(**changed: object) -> Wanted:
    return Wanted(
        **({"networks": ("small:32", "small:48", "small:64"), "layers": 120, "dtypes": ("bfloat16", "float32")} | changed)
    )


@pytest.fixture(scope="module")
def plan():
    return propose(wanted(), SimulatedRig(), "run", resolve)


def test_a_plan_measures_each_network_whole_in_both_modes_with_the_layers_that_make_it_up(plan):
    assert len(plan.networks) == 3
    planned = {item.digest for item in plan.items if item.layer and item.regime == "cold" and item.mode == "graph"}
    for network in plan.networks:
        assert sum(share for _, share in network.layers.values()) == pytest.approx(1.0)
        assert sum(share for digest, (_, share) in network.layers.items() if digest in planned) >= CLOSURE_FRAC
    whole = Counter((item.call, item.mode) for item in plan.items if item.network)
    both = {(call, mode) for call in network_calls(wanted(), cuda=True) for mode in ("graph", "eager")}
    assert set(whole) == both and len(both) > 6 and set(whole.values()) == {1}


def test_a_network_of_too_many_layers_is_measured_whole_without_all_of_them(monkeypatch):
    monkeypatch.setattr(sys.modules[propose.__module__], "MOST_CLOSING", 5)
    plan = propose(wanted(layers=40), SimulatedRig(), "run", resolve)
    planned = {item.digest for item in plan.items if item.layer}
    assert any(sum(share for x, (_, share) in network.layers.items() if x in planned) < CLOSURE_FRAC for network in plan.networks)
    assert {item.call for item in plan.items if item.network} == set(network_calls(wanted(), cuda=True))


def test_a_plan_holds_every_source_and_about_as_many_layers_as_asked(plan):
    sources = Counter(item.source.split(":")[0] for item in plan.items if item.layer)
    assert {"small", "perturbed", "sobol", "llm", "reference"} == set(sources)
    assert 90 <= plan.distinct_layers <= 130
    order = [item.source.split(":")[0] for item in plan.items if not item.is_reference]
    assert order.index("sobol") > max(i for i, item in enumerate(x for x in plan.items if not x.is_reference) if item.network)
    assert order.index("llm") > max(i for i, name in enumerate(order) if name == "sobol")
    text = plan.describe()
    assert "by group" in text and "3 networks" in text and "hidden repeats" in text


def test_a_calibration_plans_few_telling_layers_the_widest_apart_first():
    found = propose(wanted(layers=50, calibration=True), SimulatedRig(), "run", resolve)
    items = [item for item in found.items if not item.is_reference]
    assert found.distinct_layers == 50 and not found.networks and all(item.layer and item.mode == "graph" for item in items)
    first = {item.layer.group for item in items[:25]}
    assert {"conv", "matmul", "attention", "norm", "elementwise"} <= first
    assert propose(wanted(layers=50, calibration=True), SimulatedRig(), "run", resolve) == found
    with pytest.raises(InputError, match="there is nothing to measure"):
        propose(wanted(networks=DEFAULT_NETWORKS[:1], layers=0, calibration=True), SimulatedRig(), "run", resolve)


def test_equal_seeds_give_equal_plans(plan):
    assert propose(wanted(), SimulatedRig(), "run", resolve) == plan
    assert propose(wanted(seed=1), SimulatedRig(), "run", resolve).items != plan.items


def test_default_networks_that_cannot_be_traced_are_left_out_and_told():
    gone = DEFAULT_NETWORKS[0]
    found = propose(wanted(networks=("small:32", gone)), SimulatedRig(), "run", resolve)
    assert len(found.networks) == 1
    assert found.notes and all(note.startswith(f"{gone} x") and "no such network" in note for note in found.notes)


def test_a_network_that_was_asked_for_and_cannot_be_traced_is_refused():
    with pytest.raises(InputError, match=r"gone:1 x.*no such network"):
        propose(wanted(networks=("small:32", "gone:1")), SimulatedRig(), "run", resolve)


def test_with_nothing_left_the_plan_is_refused():
    with pytest.raises(InputError, match=r"there is nothing to measure: .*no such network"):
        propose(wanted(networks=DEFAULT_NETWORKS[:1], layers=0), SimulatedRig(), "run", resolve)


def test_a_model_gets_its_share_of_the_budget():
    def intervals(layers):
        return [float(layer.dtype == "float32") for layer in layers]

    networks = ("small:32", "small:48", "small:64", "small:96")
    found = propose(wanted(networks=networks), SimulatedRig(), "run", resolve, intervals)
    active = [item for item in found.items if item.source.startswith("active") and not item.repeat and item.mode == "graph"]
    assert 0 < len({x.layer for x in active}) <= round(120 * ACTIVE_FRAC)
    assert statistics.mean(x.dtype == "float32" for x in active) > 0.5


def test_a_network_whose_pass_is_too_long_is_not_measured_whole(monkeypatch):
    monkeypatch.setattr(sys.modules[propose.__module__], "LONGEST_PASS_S", 1e-9)
    assert not any(item.network for item in propose(wanted(layers=40), SimulatedRig(), "run", resolve).items)


def test_closure_calls_cover_dtypes_and_batch_sizes():
    calls = closure_calls(Wanted(), cuda=True)
    assert len(calls) == len(DEFAULT_NETWORKS) == 14
    assert {x.dtype for x in calls} == {"bfloat16", "float16", "float32"} and len({x.batch for x in calls}) == 3
    assert len({(x.dtype, x.batch) for x in calls}) == 9
    more = network_calls(Wanted(), cuda=True)
    assert more[:14] == calls and {x.tf32 for x in more if x.dtype == "float32"} == {"none", "conv", "all"}
    assert {x.batch for x in more} == {1, 8, 32, 128}
    assert {x.tf32 for x in network_calls(Wanted(), cuda=False)} == {"none"}  # no CPU has tensor cores


def test_closure_calls_take_dtypes_and_batch_sizes_in_turn():
    names = wanted().networks
    assert closure_calls(wanted(), cuda=True) == [
        NetworkCall(names[0], 32, "bfloat16", "none"), NetworkCall(names[1], 8, "float32", "conv"),
        NetworkCall(names[2], 32, "bfloat16", "none"),
    ]  # fmt: skip
    assert [(x.batch, x.dtype, x.tf32) for x in closure_calls(wanted(), cuda=False)] == [
        (1, "bfloat16", "none"), (4, "float32", "none"), (4, "bfloat16", "none"),
    ]  # fmt: skip
    assert {x.batch for x in network_calls(Wanted(), cuda=False)} == {1, 4}


def test_a_network_is_traced_as_its_call_says():
    asked = []

    def told(name, size):
        asked.append(size)
        return resolve(name, size)

    found = traced_network(NetworkCall("small:32", 4, "float32", "all", image_size=96, seq_len=7), told)
    assert (asked[0].batch, asked[0].image_size, asked[0].seq_len, asked[0].dtype) == (4, 96, 7, "float32")
    assert (found.tf32, found.batch, found.network) == ("all", 4, "small:32")


def test_layers_of_a_network_plan_count_their_calls(plan):
    """The body is three equal convolutions; all else is called once or twice."""
    for network in plan.networks:
        share = max(share for _, share in network.layers.values())
        assert (3, share) in network.layers.values()


def test_without_networks_points_and_language_models_share_the_layers():
    """17 and 10 parts of 42: of 120 layers 49 and 29."""
    found = propose(wanted(networks=()), SimulatedRig(), "run", resolve)
    counts = Counter(x.source for x in found.items if x.layer and not x.repeat and (x.mode, x.regime) == ("graph", "cold"))
    llm = sum(n for source, n in counts.items() if source.startswith("llm"))
    assert counts["sobol"] == pytest.approx(49, abs=3) and llm == 29


def test_a_layer_is_planned_once_however_many_sources_have_it(plan):
    def intervals(layers):
        return [1.0 for _ in layers]

    for found in (plan, propose(wanted(), SimulatedRig(), "run", resolve, intervals)):
        layers = [x.layer for x in found.items if x.layer and not x.repeat and (x.mode, x.regime) == ("graph", "cold")]
        assert len(set(layers)) == len(layers)


def test_what_a_model_doubts_takes_the_place_of_other_layers(plan):
    def others(found):
        return sum(bool(x.layer) and not x.repeat and x.mode == "graph" and x.regime == "cold"
                   and not x.source.startswith("active") for x in found.items)  # fmt: skip

    found = propose(wanted(), SimulatedRig(), "run", resolve, lambda layers: [1.0 for _ in layers])
    assert others(found) == pytest.approx(0.7 * others(plan), abs=2)


def test_perturbed_layers_know_what_lies_behind_a_relu(plan):
    for source in ("perturbed", "small"):
        assert any(x.rectified for x in plan.items if x.source.startswith(source)), source


def test_a_plan_keeps_to_the_memory_of_its_device(monkeypatch):
    monkeypatch.setattr(SimulatedRig, "describe", lambda _: {"memory_bytes": 4e6})
    found = propose(wanted(layers=40), SimulatedRig(), "run", resolve)
    held = [sum(x.size_bytes for x in (*item.layer.inputs, *item.layer.outputs)) for item in found.items
            if item.layer and item.source in ("perturbed", "sobol")]  # fmt: skip
    assert held and max(held) < 1e6


def test_the_reference_of_a_gpu_is_in_half_precision(plan):
    assert {x.dtype for x in plan.items if x.is_reference} == {"float16"}


@pytest.mark.parametrize(
    ("of_networks", "modes"), [((), ["none", "all"]), (("none", "conv"), ["none", "all"]), (("none", "none"), ["none"])]
)
def test_points_are_in_tf32_where_networks_are(of_networks, modes):
    traces = [SimpleNamespace(tf32=x) for x in of_networks]
    assert _sobol_dtypes(traces, wanted()) == [("bfloat16", "none"), *(("float32", mode) for mode in modes)]


def test_networks_whose_closure_takes_more_than_their_share_get_no_other_layers():
    """Of 12 layers seven are of networks, by their share: fewer than make up nine tenths of three networks."""
    found = propose(wanted(layers=12), SimulatedRig(), "run", resolve)
    closing = set()
    for network in found.networks:
        covered = 0.0
        for digest, (_, share) in sorted(network.layers.items(), key=lambda x: -x[1][1]):
            if covered < CLOSURE_FRAC:
                closing.add(digest)
            covered += share
    assert len(closing) > 7
    assert {x.digest for x in found.items if x.layer and x.source.startswith("small")} == closing


def test_a_point_that_a_network_has_already_is_no_point(monkeypatch, traced):
    """Of two points one is the network's largest layer, which is measured anyway."""
    largest = max(candidates(traced, ROOFLINE), key=lambda x: x.share).layer
    other = linear(3, 24, 40, "float32")
    monkeypatch.setattr(sys.modules[propose.__module__], "sobol_layers", lambda *_: [largest, other])
    network, shapes, _ = _stages(wanted(), [traced], [traced], ROOFLINE, Random(0))
    assert largest in {x.layer for x in network}
    assert [x.layer for x in shapes if x.source == "sobol"] == [other]
