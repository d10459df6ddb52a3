"""From a trace to joules: sums, shares, intervals, launch gaps and the JSON schema."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from torch import nn

import wattlayer as wl
from wattlayer.errors import InputError
from wattlayer.estimate import GAPS, LAUNCH_BOUND, estimate_energies_j, estimate_many, told_of_launches
from wattlayer.features.columns import Columns
from wattlayer.hardware import find_hardware
from wattlayer.model.launches import ASSUMED_HOST_S, Launches, wait_s
from wattlayer.model.scaffold import Scaffold
from wattlayer.trace.fusion import NO_GAPS


class Block(nn.Module):
    """Convolutions and a residual add, twice: the add's kind was never measured."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3)
        self.body = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for _ in range(2):
            x = x + self.body(x)
        return self.head(x.permute(0, 2, 3, 1))


@pytest.fixture(scope="module")
def traced() -> wl.Trace:
    return wl.trace(Block().eval(), torch.empty(8, 3, 32, 32))


def test_what_a_pass_holds_is_its_weights_and_inputs_each_once(traced):
    tied = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    tied[2].weight = tied[0].weight
    own = sum(p.numel() for p in {id(p): p for p in tied.parameters()}.values()) * 4
    assert wl.trace(tied, torch.empty(8, 64)).held_bytes == own + 8 * 64 * 4
    parameters = sum(p.numel() for p in Block().parameters()) * 4
    assert traced.held_bytes == parameters + 8 * 3 * 32 * 32 * 4, "the body that is run twice is held once"
    assert wl.Trace("x", traced.layers, traced.paths).held_bytes == 0, "nobody knows what feeds what"


@pytest.mark.parametrize("mode", ["graph", "eager", "compiled"])
def test_a_network_that_does_not_fit_says_so(mode):
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(80_000, 80_000), nn.ReLU())
    said = "its weights and inputs take at least 25.6 GB and a30 has 24 GB of memory: priced as if they fitted"
    x = torch.empty(1, 80_000, device="meta")
    large = wl.predict(net, x, hardware="a30", mode=mode)
    of_mode = (NO_GAPS,) if mode == "compiled" else ()
    assert large.assumptions == (*of_mode, said) and large.to_json()["assumptions"] == [*of_mode, said]
    for fits in ({"hardware": "h200-sxm"}, {"hardware": "a30", "dtype": "float16"}):
        assert wl.predict(net, x, mode=mode, **fits).assumptions == of_mode
    moved = wl.estimate((large.unfused or large).trace, "h200-sxm", mode)
    assert moved.assumptions == of_mode, "another device is asked for its own memory"
    held = wl.predict(net, x, hardware="jetson-nano", dtype="int8").assumptions
    assert any("6.4 GB and jetson-nano has 4 GB" in text for text in held)


@pytest.mark.parametrize(("dtype", "hardware", "told"), [
    ("bfloat16", "rtx2080ti", "rtx2080ti in bfloat16"), ("float16", "gtx1080ti", "gtx1080ti in float16"),
    ("float16", "rtx2080ti", ""), ("bfloat16", "a30", ""), ("float32", "gtx1080ti", ""),
])  # fmt: skip
def test_products_in_numbers_without_a_stated_rate_are_told_of(dtype, hardware, told):
    """On such boards bfloat16 came out cheaper than float16, and nothing said why that may not be believed."""
    said = (f"no data sheet states a rate of {told}: products in it are priced as if they were as fast as in float32",)
    x = torch.empty(8, 64, device="meta")
    product = wl.predict(nn.Linear(64, 64), x, hardware=hardware, dtype=dtype).assumptions
    assert [text for text in product if "rate" in text] == list(said if told else ())
    assert not any("rate" in text for text in wl.predict(nn.ReLU(), x, hardware=hardware, dtype=dtype).assumptions)


def test_of_double_and_half_precision_on_one_board_both_are_told_of():
    class Both(nn.Module):
        def forward(self, x):
            return (x.half() @ x.half()).double() @ x.bfloat16().double(), x.bfloat16() @ x.bfloat16()

    found = wl.predict(Both(), torch.empty(8, 8, device="meta"), hardware="gtx1080ti").assumptions
    assert any("of gtx1080ti in bfloat16 and float16:" in text for text in found), "its rate of float64 is stated"


def test_layers_that_take_little_more_than_their_launch_are_told_where_a_graph_has_others(traced, model):
    looped = replace(model.metadata, looped=True)
    graph = wl.estimate(traced, model)
    loops = replace(graph, model=looped)
    bound = Scaffold(looped.log_rates, looped.runs).launch_frac(Columns(traced.layers, find_hardware("a30"))) > 0.5
    assert 0 < bound.sum() < len(bound), "some take more than half for the device's work, some for the launch"
    share = float(graph.layer_energy_j[bound].sum() / graph.layer_energy_j.sum())
    assert loops.launch_bound_frac == loops.to_json()["total"]["launch_bound_frac"] == pytest.approx(share)
    assert loops.assumptions == (*graph.assumptions, LAUNCH_BOUND.format(f"{share:.0%}"))
    on_processor = replace(loops, model=replace(looped, hardware="xeon-gold-5120"))
    for other in (graph, replace(loops, mode="eager"), on_processor):
        assert other.launch_bound_frac == 0.0 and other.assumptions == graph.assumptions
    assert told_of_launches(0.049) == () and told_of_launches(0.05) == (LAUNCH_BOUND.format("5%"),)


def test_compiled_passes_tell_of_launches_as_graphs_do(traced, model):
    knowing = wl.EnergyModel.of(replace(model.metadata, looped=True), model.regressor)
    compiled = wl.estimate(traced, knowing, "compiled")
    scaffold, columns = knowing.regressor.scaffold, Columns(compiled.trace.layers, find_hardware("a30"))
    bound = scaffold.launch_frac(columns) > 0.5
    share = float(compiled.layer_energy_j[bound].sum() / compiled.layer_energy_j.sum())
    assert "fused" in {x.kind for x in compiled.trace.layers} and 0 < share == compiled.launch_bound_frac
    assert compiled.unfused.launch_bound_frac == wl.estimate(traced, knowing).launch_bound_frac > 0


def test_what_is_no_trace_no_layer_and_no_measurement_is_named_with_the_cure(traced, model):
    with pytest.raises(wl.WattlayerError, match=r"'resnet18' is no trace: make one with wattlayer.trace, or give"):
        wl.estimate("resnet18", model)
    with pytest.raises(wl.WattlayerError, match="'conv2d' is no layer: give those of a trace"):
        model.predict(["conv2d"])
    for wrong in ("row", 3, None, ()):
        for measurements, networks in (([wrong], ()), ([], [wrong]), ([], [(wrong, traced)])):
            with pytest.raises(wl.WattlayerError, match=f"{re.escape(repr(str(wrong)))} is no Measurement: `read_measurements`"):
                wl.evaluate("a30", measurements, networks)
        with pytest.raises(wl.WattlayerError, match="is no Measurement"):
            wl.calibrate("a30", [wrong])
    with pytest.raises(wl.WattlayerError, match="a model is a name, a path or an EnergyModel, not NoneType"):
        wl.calibrate(None, [])
    for depth in (0, "2", 1.5):
        with pytest.raises(wl.WattlayerError, match=f"depth {depth!r} (is not a whole number|must be at least 1)"):
            wl.estimate(traced, model).by_module(depth)


def test_a_network_is_named_by_a_path_as_well(tmp_path):
    path = tmp_path / "net.onnx"
    with pytest.raises(wl.WattlayerError, match=r"net.onnx: there is no such file"):
        wl.predict(path)


def test_layers_sum_to_the_total(traced, model):
    e = wl.estimate(traced, model)
    assert e.energy_j == pytest.approx(e.to_frame().energy_j.sum(), rel=1e-12)
    assert e.energy_j == pytest.approx(e.by_kind().energy_j.sum(), rel=1e-12)
    assert e.energy_j == pytest.approx(e.by_module(1).energy_j.sum(), rel=1e-12)
    assert e.energy_per_sample_j == pytest.approx(e.energy_j / 8)
    assert e.power_w == pytest.approx(e.energy_j / e.time_s)


def test_a_reused_module_is_counted_each_time(traced, model):
    e = wl.estimate(traced, model)
    assert e.by_module(1).loc["body", "calls"] == 4
    assert list(e.by_module(2).index) == ["stem", "body.0", "body.1", "", "head"]


def test_unmeasured_kinds_lower_the_covered_share_and_strict_refuses_them(traced, model):
    e = wl.estimate(traced, model)
    assert e.uncovered_kinds() == ["add"]
    add_j = e.by_kind().loc["add", "energy_j"]
    assert add_j > 0
    assert e.covered_frac == pytest.approx(1 - add_j / e.energy_j)
    with pytest.raises(wl.UncoveredKindError, match="add"):
        wl.estimate(traced, model, strict=True)


def test_the_interval_of_a_sum_lies_between_quadrature_and_full_addition(traced, model):
    e = wl.estimate(traced, model)
    low, high = e.interval_j
    assert low < e.energy_j < high
    assert high <= e.layer_high_j.sum() * 1.05


def test_many_give_the_same_numbers_as_one_by_one(traced, model):
    other = wl.trace(nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU()).eval(), torch.empty(8, 3, 32, 32))
    together = wl.estimate_many([traced, other], model)
    for trace, e in zip((traced, other), together):
        assert np.allclose(e.layer_energy_j, wl.estimate(trace, model).layer_energy_j, rtol=1e-6)


def test_no_networks_give_no_estimates(model):
    assert estimate_many([], model) == estimate_many([], model, n_jobs=2) == []


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_traces_may_come_one_by_one(traced, model, mode):
    one_by_one = estimate_many((x for x in (traced, traced)), model, mode)
    assert [x.energy_j for x in one_by_one] == [x.energy_j for x in estimate_many([traced, traced], model, mode)]
    with pytest.raises(wl.InputError, match=f"not that of {traced.network} alone: give a list"):
        estimate_many(traced, model)


def test_a_network_without_layers_is_refused_among_others_too(traced, model):
    """In a search a candidate of no joules would win."""
    empty = wl.trace(nn.Identity(), torch.empty(2, 4))
    for ask in (wl.estimate_many, estimate_energies_j):
        with pytest.raises(wl.InputError, match="Identity has no layer to estimate"):
            ask([traced, empty], model)
        assert len(ask([], model)) == 0


def test_eager_mode_adds_the_gaps_that_the_host_leaves(traced, model):
    graph, eager = wl.estimate(traced, model), wl.estimate(traced, model, mode="eager")
    gap_s = float(wait_s(graph.time_s, ASSUMED_HOST_S * len(traced.layers)))
    assert graph.gap_s == 0 == graph.gap_energy_j
    assert eager.gap_s == pytest.approx(gap_s)
    assert eager.energy_j == pytest.approx(graph.energy_j + gap_s * wl.HARDWARE["a30"].idle_w)
    assert eager.model.launching == "assuming 7.5 µs a launch"


def test_what_is_summed_in_eager_mode_sums_to_the_total_with_its_gaps(traced, model):
    e = wl.estimate(traced, model, mode="eager")
    for frame in (e.by_kind(), e.by_module(1), e.by_module(2), e.to_frame()):
        assert frame.energy_j.sum() == pytest.approx(e.energy_j, rel=1e-12)
        assert frame.time_s.sum() == pytest.approx(e.time_s, rel=1e-12)
    for frame in (e.by_kind(), e.by_module(1)):
        assert frame.energy_frac.sum() == pytest.approx(1.0)
        assert frame.loc[GAPS].tolist() == [0, 0, e.gap_s, e.gap_energy_j, e.gap_energy_j / e.energy_j]
    assert e.by_module(1).index[-1] == GAPS and GAPS in str(e)
    *layers, gaps = e.rows()
    assert layers == e.to_json()["layers"]
    assert (gaps["kind"], gaps["energy_j"], gaps["covered"]) == (GAPS, e.gap_energy_j, False)
    device_s, total = e.time_s - e.gap_s, e.to_json()["total"]
    fast_s, slow_s = (float(wait_s(device_s, factor * ASSUMED_HOST_S * len(layers))) for factor in (3 / 4, 4 / 3))
    low, high = (x * wl.HARDWARE["a30"].idle_w for x in (fast_s, slow_s))
    assert (low, high) == pytest.approx(e.gap_interval_j) == (gaps["energy_low_j"], gaps["energy_high_j"])
    assert (total["gap_low_j"], total["gap_high_j"]) == e.gap_interval_j and total["gap_basis"] == "assumed"
    alone = wl.estimate(traced, model)
    assert e.energy_j - e.interval_j[0] == pytest.approx(np.hypot(alone.energy_j - alone.interval_j[0], e.gap_energy_j - low))
    assert e.interval_j[1] - e.energy_j == pytest.approx(np.hypot(alone.interval_j[1] - alone.energy_j, high - e.gap_energy_j))
    assert gaps.keys() == layers[0].keys()
    told = wl.estimate(
        traced, model.with_launches(Launches({"conv2d": 1e-3, "*": 2e-3}, idle_w=100.0, basis="measured")), mode="eager"
    )
    assert told.rows()[-1]["covered"]


def test_shares_are_of_what_layers_cost_without_the_gaps(traced, model):
    slow = model.with_launches(Launches({"*": 1e-3}, idle_w=50.0))
    e = wl.estimate(traced, slow, mode="eager")
    everything = np.ones_like(e.covered)
    assert e.gap_energy_j > 0.5 * e.energy_j
    assert replace(e, covered=everything).covered_frac == replace(e, extrapolated=everything).extrapolated_frac == 1.0


def test_what_networks_told_of_launches_is_in_every_estimate(traced, model):
    told = model.with_launches(Launches({"conv2d": 1e-3, "*": 2e-3}, 0.1, 0.2, idle_w=100.0, basis="measured"))
    plain, graph, eager = wl.estimate(traced, model), wl.estimate(traced, told), wl.estimate(traced, told, mode="eager")
    calls = len(traced.layers)
    cached = Columns(traced.layers, find_hardware(model.hardware)).cached
    assert cached.any()
    assert graph.layer_time_s == pytest.approx(plain.layer_time_s * np.where(cached, 1.1, 1.0)) and graph.gap_s == 0
    assert graph.layer_energy_j == pytest.approx(plain.layer_energy_j * np.where(cached, 1.2, 1.0))
    convs = sum(x.kind == "conv2d" for x in traced.layers)
    assert eager.time_s == pytest.approx(convs * 1e-3 + (calls - convs) * 2e-3, rel=0.01)  # the host is far slower
    assert eager.gap_energy_j == pytest.approx(eager.gap_s * 100.0)
    assert "fitted" in eager.model.launching
    alone = told.predict(traced.layers, alone=True)
    assert np.allclose(alone.energy_j, model.predict(traced.layers).energy_j, rtol=1e-9)


def test_an_unknown_mode_is_refused(traced, model):
    with pytest.raises(wl.InputError, match="graph, eager"):
        wl.estimate(traced, model, mode="lazy")


def test_an_unknown_campaign_is_refused_by_naming_those_there_are(traced, model):
    assert wl.estimate(traced, model, run="r1").energy_j == wl.estimate(traced, model).energy_j
    with pytest.raises(wl.InputError, match="knows no campaign 'nosuch'; it knows 'r1'"):
        wl.estimate(traced, model, run="nosuch")


def test_a_model_may_be_named(traced):
    assert wl.estimate(traced, "a30").energy_j == wl.estimate(traced, wl.load_model("a30")).energy_j
    with pytest.raises(wl.InputError, match="a31"):
        wl.estimate(traced, "a31")


def test_estimates_are_equal_to_themselves_alone(traced, model):
    one, other = wl.estimate(traced, model), wl.estimate(traced, model)
    assert one != other and one in [other, one] and len({one, other, one}) == 2


@pytest.mark.parametrize("shape", [(0, 3), (0,)])
def test_a_batch_of_no_samples_is_refused(model, shape):
    with pytest.raises(wl.InputError, match=f"{'x'.join(map(str, shape))}, a batch of no samples"):
        wl.predict(nn.Sequential(nn.ReLU(), nn.Tanh()), torch.zeros(shape), hardware=model)


def test_a_network_that_moves_nothing_is_refused(model):
    with pytest.raises(wl.InputError, match="no layer"):
        wl.estimate(wl.trace(nn.Identity(), torch.empty(1)), model)


NUMBER, COUNT, SHARE = {"type": "number"}, {"type": "integer", "minimum": 0}, {"type": "number", "minimum": 0, "maximum": 1}
POSITIVE = {"type": "number", "exclusiveMinimum": 0}
DIGEST = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
SHAPES = {"type": "array", "items": {"type": "array", "items": COUNT}}
TEXT, TRUTH = {"type": "string"}, {"type": "boolean"}


def strict_object(**properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(properties)}


SCHEMA_1 = strict_object(
    schema={"const": 1}, wattlayer=TEXT, network=TEXT, hardware=TEXT, dtype=TEXT, tf32={"enum": ["none", "conv", "all"]},
    batch={"type": "integer", "minimum": 1}, mode={"enum": ["graph", "eager"]},
    model=strict_object(name=TEXT, sha256=DIGEST, features=COUNT, rows=COUNT, source=TEXT),
    total=strict_object(
        energy_j=POSITIVE, energy_low_j=POSITIVE, energy_high_j=POSITIVE, interval_frac=SHARE, energy_per_sample_j=POSITIVE,
        time_s=POSITIVE, power_w=POSITIVE, flop=COUNT, read_bytes=COUNT, write_bytes=COUNT, covered_frac=SHARE,
        extrapolated_frac=SHARE, gap_energy_j=NUMBER,
    ),
    layers={"type": "array", "minItems": 1, "items": strict_object(
        index=COUNT, path=TEXT, kind=TEXT, input_shapes=SHAPES, output_shapes=SHAPES, dtype=TEXT, flop=COUNT, read_bytes=COUNT,
        write_bytes=COUNT, time_s=POSITIVE, power_w=POSITIVE, energy_j=POSITIVE, energy_low_j=POSITIVE, energy_high_j=POSITIVE,
        covered=TRUTH, extrapolated=TRUTH,
    )},
)  # fmt: skip


def test_json_is_schema_1(traced, model):
    record = wl.estimate(traced, model).to_json()
    jsonschema.validate(record, SCHEMA_1)
    assert [x["index"] for x in record["layers"]] == list(range(len(record["layers"])))


def test_the_json_form_is_the_readers_own(traced, model):
    e = wl.estimate(traced, model)
    record = e.to_json()
    record["total"]["energy_j"] = -1.0
    assert e.total["energy_j"] == e.to_json()["total"]["energy_j"] == e.energy_j


def test_the_interval_of_a_sample_is_a_share_of_that_of_the_batch(traced, model):
    e = wl.estimate(traced, model)
    assert [e.total[f"energy_per_sample_{end}_j"] for end in ("low", "high")] == [x / traced.batch for x in e.interval_j]


def test_printing_shows_the_total_and_the_kinds(traced, model):
    text = str(wl.estimate(traced, model))
    assert "conv2d" in text and "J" in text and "measured kinds" in text


def test_printing_says_all_that_is_to_be_minded(traced, model):
    """What the model rests on, kinds never measured, layers far outside, and what the trace and the device take for granted."""
    doubtful = replace(traced, assumptions=("images not given",))
    e = wl.estimate(doubtful, model)
    e = replace(e, model=replace(e.model, basis="data sheet", source="the data sheet"), covered=np.zeros_like(e.covered))
    kinds = ", ".join(e.uncovered_kinds())
    assert e.minds[:2] == (
        "nothing was measured on a30: the data sheet",
        f"100.0% of the energy is in kinds never measured on a30, priced by the scaffold: {kinds}",
    )
    assert e.minds[-len(e.assumptions) :] == e.assumptions and "images not given" in e.minds
    assert any("far outside" in text for text in replace(e, extrapolated=~e.covered).minds)
    head, _, table = str(e).partition("\n\n")
    assert head.splitlines()[1:] == list(e.minds) and "conv2d" in table
    assert all(text in unescape(e._repr_html_()) for text in e.minds)


def test_predict_takes_modules_and_refuses_mixtures(model):
    e = wl.predict(Block(), torch.empty(4, 3, 32, 32), hardware=model, tf32="none")
    assert e.trace.batch == 4 and e.trace.tf32 == "none"
    with pytest.raises(wl.InputError, match="inputs go with a module"):
        wl.predict("resnet18", torch.empty(1), hardware=model)


@pytest.mark.parametrize("jobs", [0, 1.5, True, "2"])
def test_processes_are_counted_in_whole_numbers(traced, model, jobs):
    with pytest.raises(InputError, match="must be at least 1, or -1 for every core"):
        estimate_many([traced], model, n_jobs=jobs)
    with pytest.raises(InputError, match="must be at least 1, or -1 for every core"):
        list(wl.nas.sweep(None, [], model, n_jobs=jobs))


def test_what_is_no_list_of_layers_is_named(traced, model):
    layers = traced.layers[:3]
    assert np.array_equal(model.predict(iter(layers)).energy_j, model.predict(layers).energy_j)
    with pytest.raises(InputError, match="predict takes several layers and was given one"):
        model.predict(layers[0])
    for runs in ("a", ["a"], ["a"] * 4):
        with pytest.raises(InputError, match="does not name a campaign for each of 3 layers"):
            model.predict(layers, runs)


def test_what_is_no_argument_of_predict_is_named():
    x = torch.empty(1, 4)
    for call, named in (
        (lambda: wl.predict(nn.Linear(4, 4), x, kwargs=[1]), r"kwargs \[1\] are no keyword arguments"),
        (lambda: wl.predict("hf:gpt2", batch=None), "batch None is not a whole number"),
        (lambda: wl.predict("hf:gpt2", input=torch.zeros(40, 40)), "is not a shape of whole numbers"),
        (lambda: wl.predict_generation(None), "NoneType is no language model's name"),
        (lambda: wl.predict(nn.Linear(4, 4), x).to_html(None, {"price_per_kwh": 1}), "state them as Assumptions"),
    ):
        with pytest.raises(InputError, match=named) as refused:
            call()
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


def test_a_language_model_may_be_a_path(tmp_path):
    path = tmp_path / "hf:gpt2"
    with pytest.raises(InputError, match="is no language model of transformers"):
        wl.predict_generation(path)
    assert wl.predict_generation(Path("hf:gpt2"), 8, 1).trace.network == "hf:gpt2"


def test_answers_are_compared_as_the_objects_they_are(traced, model):
    """Of arrays nobody can say whether they are equal as one truth value: `==` raised."""
    one, same = model.predict(traced.layers), model.predict(traced.layers)
    assert one != same and len({one, same, one}) == 2
