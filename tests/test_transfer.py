"""Devices that nobody measured: what carries over from measured ones, what is said of it, and the curves that judge it."""

from __future__ import annotations

import dataclasses
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SyntheticDevice, draw_layers, models_script
from test_scaffold import relu
from torch import nn

from wattlayer import Measurement, estimate, load_model, trace
from wattlayer.errors import InputError
from wattlayer.evaluate.unseen import Curve, curves, curves_table, leave_one_out
from wattlayer.features.columns import Columns
from wattlayer.hardware import HARDWARE, find_hardware
from wattlayer.model import EnergyModel
from wattlayer.model.cells import group_of_cell
from wattlayer.model.folders import models_folder
from wattlayer.model.power import CONSUMERS
from wattlayer.model.roofline import BLOCKS, LAUNCH_S, RATES
from wattlayer.report import estimate_tables
from wattlayer.train import calibration
from wattlayer.train.lessons import interval_of, learned_classes, samples_of
from wattlayer.train.pooling import Sample, balanced, learn
from wattlayer.train.transfer import (
    TENSOR_CORE_FRAC,
    Lesson,
    data_sheet_model,
    device_class,
    from_data_sheet,
)
from wattlayer.whatif.operating import LOWEST_CLOCK_FRAC, _Layers, operated

NAMES = ("a30", "rtx2080ti", "gtx1080ti")


def test_what_all_boards_teach_convolves_by_winograd():
    """One board without transforms, measured on a few 3x3 layers, must not hide those of the others (it made this rate 4)."""
    found = json.loads((models_folder() / "transfer" / "hardware.json").read_text())["classes"]
    lessons = [x for title in found.values() for x in title["lessons"] if {"a30", "rtx2080ti"} & set(x["hardware"])]
    assert lessons
    for lesson in lessons:
        winograd = np.exp(lesson["log_rates"]["group:conv"][RATES.index("winograd")])
        assert 0.8 < winograd < 1.5


def law(name: str, layers: list, run: str = "r1", launch_s: float = 5e-6) -> list[Measurement]:
    """Rows of a device that follows one law of its data sheet: 5 us, 80 % of peak rates, up to 70 % of the limit."""
    device = find_hardware(name)
    columns = Columns(layers, device)
    busy = np.maximum(columns.compute_s(), columns.memory_s()) / 0.8
    time_s = launch_s + busy
    power_w = device.max_w * (0.2 + 0.5 * busy / time_s)
    rows = zip(layers, time_s, power_w)
    return [Measurement(name, float(t), float(t * p), layer=x, run=run, mode="eager") for x, t, p in rows]


@pytest.fixture(scope="module")
def drawn():
    return draw_layers(120, seed=5, scale=2)


@pytest.fixture(scope="module")
def rows(drawn):
    return [m for name in NAMES for m in law(name, drawn)]


@pytest.fixture(scope="module")
def samples(rows):
    return samples_of(rows)


@pytest.fixture(scope="module")
def lesson(samples):
    return learn(list(samples.values()))


@pytest.fixture(scope="module")
def carried_over(lesson, drawn):
    """The truth of a device that was not among the sources, and the errors of the model made for it."""
    truth = np.array([m.energy_j for m in law("rtx4090", drawn)])
    model = data_sheet_model(HARDWARE["rtx4090"], lesson, 0.5, 0.5)
    return truth, np.abs(model.predict(drawn).energy_j / truth - 1)


def test_a_law_of_other_devices_tells_more_than_one_of_them(carried_over, drawn):
    """The same watts and the same seconds as on any of the sources would be off by far more."""
    truth, error = carried_over
    borrowed = np.array([m.energy_j for m in law("a30", drawn)])
    assert np.median(np.abs(borrowed / truth - 1)) > 2 * np.median(error)


def test_efficiencies_of_devices_that_obey_one_law_carry_over_to_the_next(carried_over):
    assert np.median(carried_over[1]) < 0.15


def test_a_slow_host_does_not_make_slow_hardware(drawn, lesson):
    """One source launches eight times as slowly: the floor moves to the middle of the hosts, the rest stays."""
    slow = samples_of([m for x in NAMES for m in law(x, drawn, launch_s=40e-6 if x == "a30" else 5e-6)])
    both = [x.scaffold() for x in (learn(list(slow.values())), lesson)]
    columns = Columns(drawn, HARDWARE["t4"])
    times_s = [x.time_s(columns) for x in both]
    large, small = columns.roofline_s() > 1e-3, columns.roofline_s() < 5e-6
    assert large.any() and small.any()
    assert times_s[0][large] == pytest.approx(times_s[1][large], rel=0.1)
    assert 1.3 < np.median(times_s[0][small] / times_s[1][small]) < 4


def test_what_was_measured_in_graphs_tells_nothing_of_hosts(rows, drawn, lesson):
    """A fourth board has no host between its kernels: loops of the next device take as long as before."""
    device = find_hardware("h100-sxm")
    graphs = [dataclasses.replace(m, mode="graph") for m in law("h100-sxm", drawn, launch_s=device.launch_s)]
    both = samples_of([*rows, *graphs])
    assert [x.looped for x in both.values()] == [True, True, False, True]
    columns = Columns(drawn, HARDWARE["t4"])
    small = columns.roofline_s() < 5e-6
    times_s = [x.scaffold().time_s(columns)[small] for x in (learn(list(both.values())), lesson)]
    assert np.median(times_s[0] / times_s[1]) == pytest.approx(1.0, abs=0.1)
    without = {"h100-sxm": lesson, "a30": lesson}
    judged = interval_of({name: both[name] for name in without}, without)
    as_loop = interval_of({name: dataclasses.replace(both[name], looped=True) for name in without}, without)
    assert judged.half_width_octaves < as_loop.half_width_octaves, "its layers are judged by the floor of graphs"


def test_a_campaign_that_draws_less_lowers_all_watts_alike(rows, lesson):
    """The large half of one board's layers was measured in a state that draws half: not a law by which large layers draw less."""
    busy = {x for x in {m.layer for m in rows} if x.flop > np.median([m.layer.flop for m in rows])}
    odd = [
        dataclasses.replace(m, energy_j=m.energy_j / 2, run="low") if m.hardware == "gtx1080ti" and m.layer in busy else m
        for m in rows
    ]
    low = learn(list(samples_of(odd).values()))
    parts = [CONSUMERS.index(name) for name in ("idle", "dram", "tensor_core", "matrix")]
    ratio = (np.array(low.consumers_frac) / np.array(lesson.consumers_frac))[parts]
    told_apart = [dataclasses.replace(m, run="r1") for m in odd]
    mixed = learn(list(samples_of(told_apart).values()))
    spoilt = (np.array(mixed.consumers_frac) / np.array(lesson.consumers_frac))[parts]
    assert 2 * np.ptp(np.log(ratio)) < np.ptp(np.log(spoilt))


def test_each_device_counts_alike_however_many_rows_it_has():
    weight = balanced(np.array([1.0, 0.5, 0.5, 1.0, 1.0, 4.0]), np.array([2, 2, 2, 2, 0, 0]))
    assert weight == pytest.approx([4 / 3, 2 / 3, 2 / 3, 4 / 3, 4 / 5, 16 / 5])
    assert weight[:4].sum() == weight[4:].sum() and weight.sum() == 8


def test_tensor_cores_nobody_measured_are_assumed_and_measured_ones_taken_as_they_are():
    nothing, one, two = ((x,) * len(RATES) for x in (0.0, 1.0, 2.0))
    plain = {"*": nothing, "group:conv": one, "cell:conv2d/1x1": one, "cell:conv2d/depthwise": one, "cell:linear": one}
    rates = Lesson(("a30",), plain, (0.5,) * len(CONSUMERS)).scaffold().log_rates
    expected = np.ones(len(RATES))
    expected[[RATES.index(name) for name in BLOCKS["compute"]]] -= np.log(TENSOR_CORE_FRAC)
    assert rates["group:conv/tc"] == rates["cell:conv2d/1x1/tc"] == pytest.approx(expected)
    assert set(rates) == {*plain, "group:conv/tc", "cell:conv2d/1x1/tc"}
    measured = Lesson(("a30",), plain | {"group:conv/tc": two}, (0.5,) * len(CONSUMERS)).scaffold().log_rates
    assert measured["group:conv/tc"] == two and "cell:conv2d/1x1/tc" not in measured


def test_watts_are_shares_of_the_limit(lesson):
    drawn = lesson.drawn(HARDWARE["t4"])
    assert drawn.limit_w == 70 and drawn.consumers_w == pytest.approx([70 * x for x in lesson.consumers_frac])


def test_graphs_have_no_host_between_their_kernels_and_processors_no_graphs():
    """Layers of next to no work: the registry's launch time in graphs, what loops took in eager mode."""
    tiny = trace(nn.ReLU(), torch.empty(4, 4)).layers
    graph, loop = (from_data_sheet("l4", looped).predict(tiny).time_s[0] for looped in (False, True))
    assert graph == pytest.approx(HARDWARE["l4"].launch_s, rel=0.05) and loop > 2 * graph
    both = [from_data_sheet("epyc-9755", looped).predict(tiny).time_s[0] for looped in (False, True)]
    assert both[0] == both[1]
    assert LAUNCH_S == 1e-6


def test_the_bias_of_a_convolution_is_launched_in_graphs_too():
    plain, biased = (trace(nn.Conv2d(4, 4, 1, bias=has), torch.empty(1, 4, 1, 1)).layers for has in (False, True))
    plain_s, biased_s = (from_data_sheet("l4").predict(x).time_s[0] for x in (plain, biased))
    assert HARDWARE["l4"].launch_s <= plain_s * 1.05 and 1.04 < biased_s / plain_s < 2.01


def test_cells_belong_to_groups():
    assert group_of_cell("conv2d/3x3/tc") == "conv/tc"
    assert group_of_cell("layer_norm") == "norm"
    assert group_of_cell("no_such_kind") == "other"


@pytest.mark.parametrize(
    ("name", "title"),
    [("a30", "board"), ("t4", "board"), ("orin-nano-8gb", "module"), ("agx-orin-64gb", "module"), ("epyc-9755", "processor")],
)
def test_devices_learn_from_their_own_class(name, title):
    assert device_class(HARDWARE[name]) == title


def test_the_interval_is_the_widest_that_a_left_out_device_needs(samples):
    def lessons(chosen):
        return {name: learn([x for key, x in chosen.items() if key != name]) for name in chosen}

    all_three = interval_of(samples, lessons(samples))
    rows = samples["gtx1080ti"].rows
    slower = samples | {"gtx1080ti": Sample.of("gtx1080ti", dataclasses.replace(rows, time_s=3 * rows.time_s))}
    wider = interval_of(slower, lessons(slower))
    assert 0 < all_three.half_width_octaves < 1
    assert wider.half_width_octaves > all_three.half_width_octaves + 1
    assert 0 <= all_three.correlation_frac <= 1
    alone = interval_of({"a30": samples["a30"]}, {})
    assert (alone.half_width_octaves, alone.correlation_frac) == (2.0, 1.0)


def test_layers_of_one_group_err_alike_on_one_device(samples):
    """Linear layers of one board are twice as slow as the others tell: a network of them is off by as much as each of them."""

    def told(chosen):
        return interval_of(chosen, {name: learn([x for key, x in chosen.items() if key != name]) for name in chosen})

    sample = samples["a30"]
    slower = np.array([2.0 if x.group == "matmul" else 1.0 for x in sample.rows.layers])
    odd = Sample.of("a30", dataclasses.replace(sample.rows, time_s=slower * sample.rows.time_s))
    assert told(samples | {"a30": odd}).correlation_frac > 0.4


def test_hosts_of_measured_boards_are_carried_over_to_the_next(drawn):
    """Three hosts that take 10, 20 and 40 us: the fourth is told the middle, and to be as far off as the widest of them."""
    hosts_s = dict(zip(NAMES, (10e-6, 20e-6, 40e-6)))
    learned = learned_classes([m for name, s in hosts_s.items() for m in law(name, drawn, launch_s=s)])["board"]
    model = learned.model(HARDWARE["l4"])
    launches = model.launches
    assert launches.basis == "carried over" and launches.idle_w == HARDWARE["l4"].idle_w
    assert [launches.host_s[x] for x in ("linear", "relu", "*", "softmax")] == pytest.approx([20e-6] * 4, rel=0.25)
    assert launches.spread_frac == pytest.approx(40 / np.sqrt(10 * 20) - 1, rel=0.25)
    eager = estimate(trace(nn.ReLU(), torch.empty(4, 4)), model, mode="eager")
    assert eager.time_s == pytest.approx(20e-6, rel=0.25) and "hosts of measured boards" in eager.model.launching
    assert not eager.rows()[-1]["covered"], "nothing was measured there"
    assert learned.model(HARDWARE["l4"], looped=True).metadata.launches is None, "loops have the host in every layer"
    two = learned_classes([m for name in NAMES[:2] for m in law(name, drawn)])["board"]
    assert two.interval.host_spread_frac is None and two.model(HARDWARE["l4"]).launches.basis == "assumed"


def test_graphs_tell_nothing_of_hosts_that_are_carried_over(drawn):
    two = [m for name in NAMES[:2] for m in law(name, drawn, launch_s=20e-6)]
    graphs = [dataclasses.replace(m, mode="graph") for m in law("h100-sxm", drawn, launch_s=HARDWARE["h100-sxm"].launch_s)]
    assert learned_classes([*two, *graphs])["board"].interval.host_spread_frac is None, "two hosts are too few"
    three = [*two, *law(NAMES[2], drawn, launch_s=20e-6)]
    told = learned_classes([*three, *graphs])["board"].model(HARDWARE["l4"]).launches
    assert [told.host_s[x] for x in ("linear", "relu", "*")] == pytest.approx([20e-6] * 3, rel=0.25)


def test_no_host_that_ships_is_made_up_of_kernels_or_of_training():
    """Products of which loops ran long ones only showed a host of 100 us, norms in training one of 60."""
    host_s = from_data_sheet("h100-sxm").launches.host_s
    assert max(host_s.values()) < 1.1 * host_s["*"] and host_s["layer_norm"] == host_s["batch_norm"] < 0.7 * host_s["conv2d"]
    assert from_data_sheet("agx-orin-64gb").launches.basis == "assumed", "one module was measured, with a slow host"


def test_leaving_out_tells_less_measured_from_more(rows, monkeypatch):
    monkeypatch.setattr(
        calibration, "RECIPE", dataclasses.replace(calibration.RECIPE, rounds=30)
    )  # the law needs few trees, the test little time
    draws = leave_one_out(rows, counts=(20, 50), draws=1)
    points = {(p.hardware, p.predictor, p.layers): p for p in curves(draws)}
    for name in NAMES:
        unmeasured = points[name, "wattlayer, data sheet only", 0]
        few, more = (points[name, "wattlayer, random layers", count] for count in (20, 50))
        assert more.mdape_frac < unmeasured.mdape_frac and more.mdape_frac < 0.08
        assert unmeasured.mdape_frac < points[name, "TDP x roofline", 0].mdape_frac
        assert unmeasured.rows == 120 and few.rows == 100 and more.rows == 70
        assert few.least_mdape_frac <= few.mdape_frac <= few.most_mdape_frac and few.draws == 1
        assert more.coverage_frac is not None and more.coverage_frac > 0.7


def _unmeasured(rows):
    draws = leave_one_out(rows, counts=(), draws=0)
    return {d.hardware: d for d in draws if d.predictor == "wattlayer, data sheet only"}


def test_one_device_is_judged_as_among_all(rows):
    [alone] = {d for d in leave_one_out(rows, counts=(), draws=0, only="a30") if d.predictor == "wattlayer, data sheet only"}
    assert alone == _unmeasured(rows)["a30"]


def test_the_judged_device_teaches_its_own_prediction_nothing(rows):
    spoilt = [dataclasses.replace(m, energy_j=7 * m.energy_j, time_s=2 * m.time_s) if m.hardware == "a30" else m for m in rows]
    plain, odd = (_unmeasured(x) for x in (rows, spoilt))
    assert (1 + odd["a30"].signed_median_frac) * 7 == pytest.approx(1 + plain["a30"].signed_median_frac, rel=0.05)
    assert odd["gtx1080ti"].mdape_frac != plain["gtx1080ti"].mdape_frac


def test_one_device_cannot_be_left_out(rows):
    with pytest.raises(InputError, match="only a30 was measured: leaving hardware out needs rows of two devices"):
        leave_one_out([m for m in rows if m.hardware == "a30"])
    with pytest.raises(InputError, match="no measured layer to learn from"):
        samples_of([])


def test_curves_print_as_a_table():
    point = Curve("a30", "wattlayer, random layers", 25, 10, 900, 0.123, 0.1, 0.15, 0.4, -0.01, None, 0.9)
    lines = curves_table([point, dataclasses.replace(point, draws=1, coverage_frac=None)]).splitlines()
    assert lines[2] == "| a30 | 25 | wattlayer, random layers | 900 | 12.3% | 10.0% to 15.0% | 40.0% | -1.0% | – | 90.0% |"
    assert "| 12.3% | – |" in lines[3] and lines[3].endswith("| – |")
    assert len({line.count("|") for line in lines}) == 1


def test_what_devices_teach_survives_its_file(rows):
    learned = learned_classes(rows)
    assert list(learned) == ["board"]
    again = type(learned["board"]).from_json(json.loads(json.dumps(learned["board"].to_json())))
    assert again == learned["board"]
    with pytest.raises(InputError, match="no other board than a30 was measured"):
        dataclasses.replace(again, lessons=again.lessons[:1]).model(HARDWARE["a30"])
    assert "efficiencies of gtx1080ti, rtx2080ti" in again.model(HARDWARE["a30"]).metadata.source
    assert "efficiencies of a30, gtx1080ti, rtx2080ti" in again.model(HARDWARE["t4"]).metadata.source


@pytest.mark.parametrize("name", ["a30", "rtx2080ti", "gtx1080ti", "gtx1070"])
def test_cards_carry_the_learning_curves(name):
    """In step with transfer/hardware.json: `python models/build.py --curves` writes them."""
    section = models_script("build").curves_section(name)
    card = (models_folder() / f"{name}.md").read_text()
    assert card.endswith(section)
    for layers in (0, 25, 50, 100, 200):
        assert f"| {layers} | wattlayer, " in section
    assert section.count("| 10 |") == 12


def test_the_page_carries_the_learning_curves():
    """In step with transfer/hardware.json: `python models/build_transfer.py --docs` writes them."""
    script = models_script("build_transfer")
    record = json.loads(script.OUTPUT.read_text())
    tables = script.tables(record["curves"], record["curves_features"])
    assert f"<!-- curves -->\n{tables}<!-- /curves -->" in script.PAGE.read_text()
    assert "| 200 | wattlayer, telling layers | " in tables and "wattlayer, data sheet only | " in tables


def test_a_card_without_curves_has_no_section():
    assert models_script("build").curves_section("jetson-nano") == ""


@pytest.fixture(scope="module")
def network():
    module = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.Flatten(), nn.Linear(64 * 900, 10)).eval()
    return trace(module, torch.empty(8, 3, 32, 32))


@pytest.mark.parametrize("name", ["b200-sxm", "t4", "mi300x", "agx-orin-64gb", "epyc-9755", "gtx1080"])
def test_a_device_without_a_model_is_answered_from_its_data_sheet_and_says_so(name, network):
    model = load_model(name)
    found = estimate(network, model)
    record = found.to_json()
    assert (model.hardware, record["basis"], record["model"]["basis"], record["model"]["rows"]) == (
        name,
        "data sheet",
        "data sheet",
        0,
    )
    assert found.covered_frac == 0 and found.extrapolated.all()
    line = f"nothing was measured on {name}: data sheet only"
    assert line in str(found) and any(line in str(part) for part in estimate_tables(found))
    device = find_hardware(name)
    assert device.idle_w / 4 < found.power_w <= device.max_w
    assert found.interval_j[0] < 0.85 * found.energy_j and found.interval_j[1] > 1.15 * found.energy_j


def test_a_data_sheet_model_is_a_file_like_any_other(tmp_path, network):
    model = from_data_sheet("t4")
    model.save(tmp_path / "t4.json")
    again = EnergyModel.load(tmp_path / "t4.json")
    assert again.metadata == model.metadata and again.sha256 == model.sha256
    assert estimate(network, again).energy_j == estimate(network, model).energy_j


def test_faster_hardware_is_faster_and_a_bigger_limit_draws_more(network):
    small, large = (estimate(network, load_model(name)) for name in ("t4", "b200-sxm"))
    assert large.time_s < small.time_s and large.power_w > small.power_w


def test_a_name_that_is_neither_model_nor_device_is_told_the_nearest(home):
    with pytest.raises(InputError, match="no model and no hardware is called 'b20-sxm'; nearest: b200-sxm"):
        load_model("b20-sxm")


def test_ones_own_model_comes_before_a_shipped_one(home, model):
    own = home / "models" / "a30.json"
    own.parent.mkdir(parents=True)
    model.save(own)
    assert load_model("a30").name == "synthetic"
    own.unlink()
    assert load_model("a30").name == "a30"


@pytest.fixture(scope="module")
def synthetic():
    device = SyntheticDevice(noise_frac=0.0)
    return EnergyModel.train(device.measure(draw_layers(60, seed=2)), name="synthetic")


def test_a_power_limit_holds_and_costs_time(synthetic, layers):
    free, held = synthetic.predict(layers), operated(synthetic, power_limit_w=110).predict(layers)
    over = free.power_w > 111
    assert over.any() and not over.all()
    assert (held.power_w <= 110 * 1.001).all()
    assert (held.time_s[over] > free.time_s[over]).all()
    assert held.time_s[~over & (free.power_w < 109)] == pytest.approx(free.time_s[~over & (free.power_w < 109)])
    assert (held.energy_j[over] < free.energy_j[over]).all()


def test_a_lower_clock_takes_longer_and_draws_less_but_not_where_memory_decides(synthetic, layers):
    free, slow = synthetic.predict(layers), operated(synthetic, clock_mhz=720).predict(layers)
    ratio = slow.time_s / free.time_s
    columns = Columns(layers, HARDWARE["a30"])
    busy = columns.compute_s() / free.time_s
    assert (ratio >= 1 - 1e-9).all() and (ratio <= 2 + 1e-9).all()
    assert (slow.power_w <= free.power_w * (1 + 1e-9)).all()
    assert ratio[busy.argmax()] > 1.5 > ratio[(columns.memory_s() / free.time_s).argmax()]


def test_at_half_the_clock_by_hand():
    """10 us of which 4 wait, 100 W of which 20 are idle, a quarter of the rest DRAM's: 4 + 6 / 0.5 us, and of 80 W x 10 us the
    share 0.25 + 0.75 x 0.5² is left, over the time that it takes then."""
    own = _Layers(*(np.array([x]) for x in (10e-6, 100.0, 20.0, 4e-6, 0.25)))
    slow_s, slow_w = own.clock(np.array([0.5]))
    assert slow_s == pytest.approx([16e-6])
    assert slow_w == pytest.approx([20.0 + 80.0 * 10 * 0.4375 / 16])


def test_what_waits_for_memory_or_a_launch_and_what_idles_or_is_drawn_by_dram_does_not_follow_the_clock():
    """An element-wise layer of 512 MiB on an A30, which idles at 30 W: DRAM is busy for half of the time, vector units hardly."""
    layer, device = relu(1 << 26), HARDWARE["a30"]
    columns, watts = Columns([layer] * 2, device), dict.fromkeys(CONSUMERS, 0.0) | {"idle": 77.0, "awake": 40.0, "dram": 60.0}
    moved_s = columns.memory_s()[0]
    time_s = np.array([2.0 * moved_s, moved_s])
    regressor = SimpleNamespace(drawn=SimpleNamespace(consumers_w=tuple(watts.values())))
    own = _Layers.of(regressor, columns, time_s, np.array([100.0, 20.0]))
    assert own.idle_w == pytest.approx([30.0, 0.95 * 20.0]), "less than all that is drawn"
    assert own.waiting_s == pytest.approx([moved_s + device.launch_s, moved_s]), "no more than all of the time"
    awake = time_s / (time_s + 10e-6)
    assert own.dram_frac == pytest.approx([30.0 / (30.0 + 40.0 * awake[0]), 60.0 / (60.0 + 40.0 * awake[1])], rel=1e-3)


def test_what_was_only_calculated_says_so(synthetic, network):
    told = estimate(network, operated(synthetic, 120, 1200)).to_json()["model"]["conditions"]
    physics = "a30 limited to 120 W and clocked at 1200 MHz: physics only, nobody measured it so"
    assert told == f"{physics}, and exceeded where the lowest clock draws more"
    assert "exceeded" not in estimate(network, operated(synthetic, clock_mhz=1200)).model.conditions
    assert operated(synthetic) is synthetic
    assert operated(synthetic, clock_mhz=1440).predict(network.layers).energy_j == pytest.approx(
        synthetic.predict(network.layers).energy_j
    )


@pytest.mark.parametrize("limit_w", [30, 0, -5, 200, float("nan")])
def test_a_limit_that_does_not_fit_is_refused(synthetic, limit_w):
    with pytest.raises(InputError, match=r"W does not fit a30: give one above its idle 30 W and up to 165 W"):
        operated(synthetic, power_limit_w=limit_w)


def test_a_limit_may_be_as_high_as_was_seen(synthetic):
    """Of a board that drew more than its data sheet says."""
    seen = dataclasses.replace(synthetic, metadata=dataclasses.replace(synthetic.metadata, limit_w=180.0))
    assert operated(seen, power_limit_w=180.0).regressor.held_w == 180.0
    with pytest.raises(InputError, match="and up to 180 W"):
        operated(seen, power_limit_w=181.0)


@pytest.mark.parametrize("clock_mhz", [0, 100, 1441, float("nan")])
def test_a_clock_that_does_not_fit_is_refused(synthetic, clock_mhz):
    with pytest.raises(InputError, match=f"MHz does not fit a30: give one from {LOWEST_CLOCK_FRAC * 1440:.0f} to 1440 MHz"):
        operated(synthetic, clock_mhz=clock_mhz)


@pytest.mark.slow
def test_a_limit_given_is_the_power_of_rows_at_the_limit(shared_data, capsys):
    """The A30's rows at 165 W, from a model that learned from other boards and knows no limit."""
    models_script("check_operating").main([str(shared_data)])
    lines = capsys.readouterr().out.splitlines()
    free, held = ([float(x) for x in re.findall(r"([0-9.]+)%", line)] for line in lines if line.startswith("| at the limit"))
    assert held[0] < 2 and free[0] > 10
    assert held[-1] < free[-1]


@pytest.mark.slow
def test_left_out_devices_of_the_public_tables(shared_data):
    """The figures of docs/hardware.md, with room for other versions of libraries."""
    from wattlayer.dataset.tables import read_table

    rows = [m for x in ("heidelberg/layers.csv", "irene/ops.csv.gz") for m in read_table(shared_data / x, True).measurements]
    found = _unmeasured(rows)
    limits = {"a30": 0.27, "gtx1070": 0.24, "gtx1080ti": 0.12, "rtx2080ti": 0.45}
    assert {name: d.mdape_frac < limits[name] for name, d in found.items()} == dict.fromkeys(limits, True)
    assert all(d.coverage_frac is not None and d.coverage_frac > 0.85 for d in found.values())
