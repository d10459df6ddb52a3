"""Devices that nobody measured: what carries over from measured ones, what is said of it, and the curves that judge it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from conftest import SyntheticDevice, draw_layers
from torch import nn

from wattlayer import Measurement, calibration, estimate, load_model, trace
from wattlayer.errors import InputError
from wattlayer.features import Columns
from wattlayer.hardware import HARDWARE, find_hardware
from wattlayer.model import EnergyModel
from wattlayer.operating import LOWEST_CLOCK_FRAC, operated
from wattlayer.report import estimate_tables
from wattlayer.scaffold import TERMS
from wattlayer.transfer import (
    TENSOR_CORE_FRAC,
    Source,
    combine,
    data_sheet_model,
    device_class,
    from_data_sheet,
    group_of_cell,
)
from wattlayer.unseen import Curve, curves, curves_table, interval_of, learned_from, leave_one_out, sources_of

NAMES = ("a30", "rtx2080ti", "gtx1080ti")


def law(name: str, layers: list, run: str = "r1") -> list[Measurement]:
    """Rows of a device that follows one law of its data sheet: 5 us, 80 % of peak rates, up to 70 % of the limit."""
    device = find_hardware(name)
    columns = Columns(layers, device)
    busy = np.maximum(columns.compute_s(), columns.memory_s()) / 0.8
    time_s = 5e-6 + busy
    power_w = device.max_w * (0.2 + 0.5 * busy / time_s)
    return [Measurement(name, float(t), float(t * p), layer=x, run=run) for x, t, p in zip(layers, time_s, power_w)]


@pytest.fixture(scope="module")
def drawn():
    return draw_layers(120, seed=5, scale=2)


@pytest.fixture(scope="module")
def rows(drawn):
    return [m for name in NAMES for m in law(name, drawn)]


@pytest.fixture(scope="module")
def sources(rows):
    return sources_of(rows)


def test_efficiencies_of_devices_that_obey_one_law_carry_over_to_the_next(sources, drawn):
    model = data_sheet_model(HARDWARE["rtx4090"], list(sources.values()), 0.5, 0.5)
    truth = np.array([m.energy_j for m in law("rtx4090", drawn)])
    error = np.abs(model.predict(drawn).energy_j / truth - 1)
    assert np.median(error) < 0.15
    # the same watts and the same seconds as on any of the sources would be off by far more
    borrowed = np.array([m.energy_j for m in law("a30", drawn)])
    assert np.median(np.abs(borrowed / truth - 1)) > 2 * np.median(error)


def test_rates_are_averaged_and_the_most_special_ones_win():
    far, near = (-1.0,) * 7, (1.0,) * 7
    one = Source("a30", {"*": far, "group:conv": near}, (30.0,) * 6)
    two = Source("rtx2080ti", {"*": far}, (25.0,) * 6)
    scaffold, drawn = combine([one, two], HARDWARE["t4"])
    assert scaffold.log_rates["*"] == pytest.approx(far)
    assert scaffold.log_rates["group:conv"] == pytest.approx([(1.0 - 0.3) / 1.3] * 7)
    tensor = np.array(scaffold.log_rates["group:conv/tc"]) - np.array(scaffold.log_rates["group:conv"])
    expected = np.zeros(7)
    expected[[TERMS.index("compute"), TERMS.index("tile")]] = -np.log(TENSOR_CORE_FRAC)
    assert tensor == pytest.approx(expected)
    assert drawn.limit_w == 70
    assert drawn.consumers_w == pytest.approx([70 * np.sqrt(30 / 165 * 25 / 250)] * 6)


def test_measured_tensor_cores_are_taken_as_they_are():
    rates = {"*": (0.0,) * 7, "group:conv": (0.0,) * 7, "group:conv/tc": (2.0,) * 7}
    scaffold, _ = combine([Source("a30", rates, (30.0,) * 6)], HARDWARE["l4"])
    assert scaffold.log_rates["group:conv/tc"] == (2.0,) * 7


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


def test_the_interval_is_the_widest_that_a_left_out_device_needs(rows, sources):
    own = {name: [m for m in rows if m.hardware == name] for name in NAMES}
    all_three = interval_of(own, sources)
    slower = [dataclasses.replace(m, time_s=3 * m.time_s, energy_j=3 * m.energy_j) for m in own["gtx1080ti"]]
    wider = interval_of(own | {"gtx1080ti": slower}, sources)
    assert 0 < all_three.half_width_octaves < 1
    assert wider.half_width_octaves > all_three.half_width_octaves + 1
    assert 0 <= all_three.correlation_frac <= 1
    alone = interval_of({"a30": own["a30"]}, {"a30": sources["a30"]})
    assert (alone.half_width_octaves, alone.correlation_frac) == (2.0, 1.0)


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
        sources_of([])


def test_curves_print_as_a_table():
    point = Curve("a30", "wattlayer, random layers", 25, 10, 900, 0.123, 0.1, 0.15, 0.4, -0.01, None, 0.9)
    lines = curves_table([point, dataclasses.replace(point, draws=1, coverage_frac=None)]).splitlines()
    assert lines[2] == "| a30 | 25 | wattlayer, random layers | 900 | 12.3% | 10.0% to 15.0% | 40.0% | -1.0% | – | 90.0% |"
    assert "| 12.3% | – |" in lines[3] and lines[3].endswith("| – |")
    assert len({line.count("|") for line in lines}) == 1


def test_what_devices_teach_survives_its_file(rows):
    learned = learned_from(rows)
    assert list(learned) == ["board"]
    again = type(learned["board"]).from_json(json.loads(json.dumps(learned["board"].to_json())))
    assert again == learned["board"]
    with pytest.raises(InputError, match="no other board than a30 was measured"):
        dataclasses.replace(again, sources=again.sources[:1]).model(HARDWARE["a30"])


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


def test_what_was_only_calculated_says_so(synthetic, network):
    told = estimate(network, operated(synthetic, 120, 1200)).to_json()["model"]["conditions"]
    assert told == "a30 limited to 120 W and clocked at 1200 MHz: physics only, nobody measured it so"
    assert operated(synthetic) is synthetic
    assert operated(synthetic, clock_mhz=1440).predict(network.layers).energy_j == pytest.approx(
        synthetic.predict(network.layers).energy_j
    )


@pytest.mark.parametrize("limit_w", [30, 0, -5, 200, float("nan")])
def test_a_limit_that_does_not_fit_is_refused(synthetic, limit_w):
    with pytest.raises(InputError, match=r"W does not fit a30: give one above its idle 30 W and up to 165 W"):
        operated(synthetic, power_limit_w=limit_w)


@pytest.mark.parametrize("clock_mhz", [0, 100, 1441, float("nan")])
def test_a_clock_that_does_not_fit_is_refused(synthetic, clock_mhz):
    with pytest.raises(InputError, match=f"MHz does not fit a30: give one from {LOWEST_CLOCK_FRAC * 1440:.0f} to 1440 MHz"):
        operated(synthetic, clock_mhz=clock_mhz)


@pytest.mark.slow
def test_left_out_devices_of_the_public_tables(shared_data):
    """The figures of docs/hardware.md, with room for other versions of libraries."""
    from wattlayer.tables import read_table

    rows = [m for x in ("heidelberg/layers.csv", "irene/ops.csv.gz") for m in read_table(shared_data / x, True).measurements]
    found = _unmeasured(rows)
    limits = {"a30": 0.33, "gtx1070": 0.32, "gtx1080ti": 0.15, "rtx2080ti": 0.5}
    assert {name: d.mdape_frac < limits[name] for name, d in found.items()} == dict.fromkeys(limits, True)
    assert all(d.coverage_frac is not None and d.coverage_frac > 0.85 for d in found.values())
