"""Few measured layers: what they change in a model, what they leave, and which of them to measure."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from conftest import SyntheticDevice, draw_layers

import wattlayer as wl
from wattlayer import EnergyModel, Layer, Measurement, load_model, write_measurements
from wattlayer.errors import InputError
from wattlayer.features.columns import Columns
from wattlayer.hardware import HARDWARE, find_hardware
from wattlayer.model.folders import models_folder
from wattlayer.model.launches import Launches
from wattlayer.model.roofline import START
from wattlayer.train import calibration, selection
from wattlayer.train.calibration import MIN_LAYERS, calibrate, rate_design, start_from
from wattlayer.train.selection import alike, most_informative


@pytest.fixture(autouse=True, scope="module")
def _few_trees():
    """The synthetic law needs few trees, and the tests little time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "RECIPE", dataclasses.replace(calibration.RECIPE, rounds=40))
        yield


class OtherDevice(SyntheticDevice):
    """The synthetic law on another board: slower to launch, other efficiencies, other watts."""

    def truth(self, layers: list[Layer]) -> tuple[np.ndarray, np.ndarray]:
        columns = Columns(layers, find_hardware(self.hardware))
        time_s = 15e-6 + 1.7 * columns.compute_s() + 1.3 * columns.memory_s()
        return time_s, 80 + 120 * columns.compute_s() / time_s


T2080 = OtherDevice(noise_frac=0.01, hardware="rtx2080ti")


def error(model: EnergyModel, layers: list[Layer]) -> float:
    time_s, power_w = T2080.truth(layers)
    return float(np.median(np.abs(model.predict(layers).energy_j / (time_s * power_w) - 1)))


@pytest.fixture(scope="module")
def pool():
    return draw_layers(160, seed=11)


@pytest.fixture(scope="module")
def fitted(model, pool):
    return calibrate(model, T2080.measure(pool[:40]))


def test_classes_of_layers_of_the_other_board_do_not_carry_over(model, fitted):
    """What is long or larger there says nothing here: the quantiles are of this board's layers as they are."""
    old, new = model.metadata.conformal, fitted.metadata.conformal
    assert old.long_s > 0 and set(old.factors) != {1.0}
    assert new.long_s == 0 and set(new.factors) == {1.0}
    assert (new.widening, new.never) == (old.widening, old.never) and new.quantiles != old.quantiles


def test_few_layers_make_another_board_of_a_model(model, fitted, pool):
    before = calibrate(model, T2080.measure(pool[:MIN_LAYERS]))
    unseen = pool[40:]
    assert error(fitted, unseen) < 0.06
    assert error(fitted, unseen) <= error(before, unseen) * 1.2
    assert error(load_model("rtx2080ti"), unseen) > 0.1
    assert fitted.hardware == "rtx2080ti" and fitted.metadata.basis == "calibrated"


def test_a_calibrated_model_says_what_it_rests_on(fitted, model):
    facts = fitted.metadata
    assert facts.source == "synthetic (measured), calibrated with 40 layers of rtx2080ti"
    assert (facts.rows, facts.layers, facts.name) == (40, 40, "rtx2080ti")
    assert facts.caveat == facts.source
    assert facts.left_out_mdape_frac is not None and 0 < facts.left_out_mdape_frac < 0.15
    assert model.metadata.caveat == "" and not model.metadata.calibrated


def test_readings_again_tell_nothing_new_of_calibrated_intervals(model, pool):
    once = T2080.measure(pool[:20])
    first, again = (calibrate(model, rows).metadata for rows in (once, once * 10))
    assert again.rows == 200 and again.conformal.quantiles == pytest.approx(first.conformal.quantiles, rel=1e-9)


def test_calibrated_intervals_count_a_layer_once_in_whatever_campaign(model, pool, monkeypatch):
    seen: list = []
    plain = calibration.Conformal.moved
    monkeypatch.setattr(calibration.Conformal, "moved", lambda self, own, common: seen.append(own) or plain(self, own, common))
    monkeypatch.setattr(calibration, "correlation", lambda *_, layer: seen.append(layer) or 0.5)
    rows = [*T2080.measure(pool[:20]) * 2, *T2080.measure(pool[:20], run="r2")]
    calibrate(model, rows)
    number, own = seen
    assert len(number) == 40 and len(set(number.tolist())) == len(set(own.layer.tolist())) == 20
    assert len(own.error) == 60 and sorted(set(own.votes.tolist())) == [0.5, 1.0] and own.votes.sum() == pytest.approx(40)


def test_intervals_hold_on_layers_never_measured(fitted, pool):
    unseen = pool[40:]
    time_s, power_w = T2080.truth(unseen)
    answer = fitted.predict(unseen)
    inside = (answer.energy_low_j <= time_s * power_w) & (time_s * power_w <= answer.energy_high_j)
    low_j, high_j = answer.interval_j
    assert np.array_equal(low_j, answer.energy_low_j) and np.array_equal(high_j, answer.energy_high_j)
    assert 0.75 < inside.mean() <= 1
    assert np.median(answer.half_width) < 0.4


@pytest.mark.parametrize("count", [12, 24, 40])
def test_few_layers_make_no_interval_wider_than_that_of_a_kind_never_measured(model, pool, count):
    few, others = calibrate(model, T2080.measure(pool[:count])), pool[80:]
    time_s, power_w = T2080.truth(others)
    answer = few.predict(others)
    inside = (answer.energy_low_j <= time_s * power_w) & (time_s * power_w <= answer.energy_high_j)
    assert inside.mean() > 0.85
    assert answer.half_width.max() <= model.metadata.conformal.never, "distances that widen each error in turn widen twice"


def test_a_calibrated_model_survives_its_file(fitted, pool, tmp_path):
    fitted.save(tmp_path / "mine.json")
    again = EnergyModel.load(tmp_path / "mine.json")
    assert again.metadata == fitted.metadata
    assert (again.predict(pool).energy_j == fitted.predict(pool).energy_j).all()


def test_calibrating_is_deterministic_and_leaves_its_base_alone(model, pool):
    before = model.predict(pool).energy_j
    rows = T2080.measure(pool[:60])
    one, two = (calibrate(model, rows, seed=3) for _ in range(2))
    assert one.sha256 == two.sha256
    assert (model.predict(pool).energy_j == before).all()


def test_a_data_sheet_is_a_base_as_well(pool):
    model = calibrate(load_model("rtx3090"), [m_as(m, "rtx3090") for m in T2080.measure(pool[:50])])
    assert model.metadata.source == "rtx3090 (data sheet), calibrated with 50 layers of rtx3090"
    time_s, power_w = T2080.truth(pool[50:])
    assert np.median(np.abs(model.predict(pool[50:]).energy_j / (time_s * power_w) - 1)) < 0.1
    assert model.predict(pool[50:]).covered.all()


def test_the_host_of_another_board_is_another_one(model, pool):
    """What its networks told is carried over: watts are the new board's own, and how slow the host is is less sure."""
    told = model.with_launches(Launches({"*": 2e-5}, 0.1, 0.2, idle_w=127.0, spread_frac=0.3, basis="measured"))
    moved = calibrate(told, T2080.measure(pool[:40])).launches
    assert (moved.basis, moved.idle_w, moved.spread_frac) == ("carried over", HARDWARE["rtx2080ti"].idle_w, 2.0)
    assert (moved.host_s, moved.displaced_time_frac) == ({"*": 2e-5}, 0.1)
    own = calibrate(told, [m_as(m, "a30") for m in T2080.measure(pool[:40])]).launches
    assert own == told.launches, "on its own board nothing changes"


def test_few_rows_do_not_show_that_errors_have_less_in_common_than_those_of_the_base(model, pool):
    common = dataclasses.replace(model.metadata.conformal, correlation=0.97)
    base = EnergyModel.of(dataclasses.replace(model.metadata, conformal=common), model.regressor)
    low, high = (calibrate(x, T2080.measure(pool[:40])).metadata.conformal.correlation for x in (model, base))
    assert model.metadata.conformal.correlation <= low < 0.97 and high == 0.97


def test_a_base_is_named_as_on_the_command_line(pool):
    rows = [m_as(dataclasses.replace(m, mode="eager"), "rtx3090") for m in T2080.measure(pool[:20])]
    assert wl.calibrate("rtx3090", rows).sha256 == calibrate(start_from("rtx3090", rows), rows).sha256
    with pytest.raises(InputError, match="no model and no hardware is called 'rtx309'; nearest: rtx3090"):
        wl.calibrate("rtx309", rows)


def test_rows_of_eager_loops_start_from_what_loops_take_to_launch(pool):
    rows = [m_as(m, "rtx3090") for m in T2080.measure(pool[:5])]
    tiny = [min(pool, key=lambda x: Columns([x], HARDWARE["rtx3090"]).roofline_s()[0])]
    graph = start_from("rtx3090", rows).predict(tiny).time_s[0]
    loop = start_from("rtx3090", [dataclasses.replace(m, mode="eager") for m in rows]).predict(tiny).time_s[0]
    assert loop > 2 * graph
    trained = start_from("a30", [dataclasses.replace(m, mode="eager") for m in rows])
    assert trained.metadata == load_model("a30").metadata


def test_a_calibrated_model_holds_the_loops_of_its_rows_and_of_what_it_came_from(model, pool):
    graphs = T2080.measure(pool[:20])
    loops = [dataclasses.replace(m, mode="eager") for m in graphs]
    of_loops = EnergyModel.of(dataclasses.replace(model.metadata, looped=True), model.regressor)
    told = {
        (base.metadata.looped, rows[0].mode): calibrate(base, rows).metadata.looped
        for base in (model, of_loops)
        for rows in (graphs, loops)
    }
    few = [dataclasses.replace(m, mode="eager", run="few") for m in T2080.measure(pool[10:25])]
    assert not calibrate(model, [*graphs, *few]).metadata.looped, "predictions are for the campaign with the most layers"
    assert told == {(False, "graph"): False, (False, "eager"): True, (True, "graph"): True, (True, "eager"): True}


def test_layers_that_agree_with_the_model_leave_it_nearly_as_it_is(model, pool):
    """Ten layers of the device that the base was trained on, with one that lies: the others say that little is to be moved."""
    rows = [m_as(m, "a30") for m in SyntheticDevice().measure(pool[:20])]
    rows[3] = dataclasses.replace(rows[3], time_s=3 * rows[3].time_s, energy_j=3 * rows[3].energy_j)
    unseen = pool[40:]
    time_s = SyntheticDevice().truth(unseen)[0]
    before, after = (np.median(np.abs(m.predict(unseen).time_s / time_s - 1)) for m in (model, calibrate(model, rows)))
    assert after < before + 0.02


def m_as(m: Measurement, hardware: str) -> Measurement:
    return Measurement(hardware, m.time_s, m.energy_j, layer=m.layer, run=m.run)


def test_campaigns_that_draw_more_are_told_apart(model, pool):
    """The same times at twice the power: a run is a state of the board."""
    quiet = T2080.measure(pool[:40], run="quiet")
    loud = [Measurement("rtx2080ti", m.time_s, 1.4 * m.energy_j, layer=m.layer, run="loud") for m in T2080.measure(pool[40:70])]
    fitted = calibrate(model, [*quiet, *loud])
    assert fitted.metadata.runs == ("quiet", "loud")
    unseen = pool[70:]
    ratio = fitted.predict(unseen, ["loud"] * len(unseen)).power_w / fitted.predict(unseen, ["quiet"] * len(unseen)).power_w
    assert np.median(ratio) == pytest.approx(1.4, rel=0.1)


def test_one_wild_row_spoils_nothing(model, pool):
    rows = T2080.measure(pool[:40])
    rows[7] = Measurement("rtx2080ti", 50 * rows[7].time_s, 50 * rows[7].energy_j, layer=rows[7].layer, run="r1")
    assert error(calibrate(model, rows), pool[40:]) < 0.1


def test_too_few_layers_and_several_devices_are_refused(model, pool):
    rows = T2080.measure(pool[:MIN_LAYERS])
    with pytest.raises(InputError, match=f"9 distinct measured layers are too few to calibrate.*at least {MIN_LAYERS}"):
        calibrate(model, rows[:-1])
    with pytest.raises(InputError, match="0 distinct measured layers of a30 are too few"):
        calibrate(model, rows, hardware="a30")
    with pytest.raises(InputError, match="the rows are of a30, rtx2080ti: choose one with --hardware"):
        calibrate(model, [*rows, *SyntheticDevice().measure(pool[:2])])
    assumed = [Measurement("rtx2080ti", 1e-3, 0.1, layer=pool[0], meter="assumed-power")]
    with pytest.raises(InputError, match="measured and assumed-power rows are mixed"):
        calibrate(model, [*rows, *assumed])


def test_the_most_telling_layers_come_first_and_tell_more_than_the_least(model, pool):
    order = most_informative(pool, 60, model.regressor.scaffold, HARDWARE["rtx2080ti"])
    assert len(set(order)) == 60
    assert order[:20] == most_informative(pool, 20, model.regressor.scaffold, HARDWARE["rtx2080ti"])
    assert {pool[i].kind for i in order[:6]} == {x.kind for x in pool}
    assert sorted(most_informative(pool[:5], 60, model.regressor.scaffold, HARDWARE["rtx2080ti"])) == [0, 1, 2, 3, 4]


def test_telling_layers_leave_less_unknown_than_random_ones(model, pool):
    """By the variance that is left, worked out apart from the greedy search."""
    design, sd = rate_design(model.regressor.scaffold.log_rates, Columns(pool, HARDWARE["rtx2080ti"]))

    def unknown(chosen: list[int]) -> float:
        seen = design[chosen]
        left = np.linalg.inv(np.diag(1 / sd**2) + seen.T @ seen / 0.12**2)
        return float(np.einsum("ij,jk,ik->", design, left, design))

    told = unknown(most_informative(pool, 15, model.regressor.scaffold, HARDWARE["rtx2080ti"]))
    random = [unknown(list(np.random.default_rng(i).permutation(len(pool))[:15])) for i in range(20)]
    assert told < min(random)


def test_what_is_picked_stands_for_the_middle_as_well(model, pool):
    """Layers are nearer to one of their kind among the picks than among the extremes that rates alone ask for."""
    device, count = HARDWARE["rtx2080ti"], 30
    likeness = alike(Columns(pool, device))
    assert np.diag(likeness) == pytest.approx(1) and (likeness >= 0).all() and (likeness == likeness.T).all()
    told = most_informative(pool, count, model.regressor.scaffold, device)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "MISFIT_SD", 0.0)
        extremes = most_informative(pool, count, model.regressor.scaffold, device)
    assert likeness[told].max(axis=0).mean() > likeness[extremes].max(axis=0).mean()


def test_a_scaffold_without_cells_still_tells_groups_apart(pool):
    design, sd = rate_design({"*": tuple(START)}, Columns(pool, HARDWARE["a30"]))
    assert design.shape == (len(pool), len(sd)) and np.isfinite(design).all()
    assert (np.abs(design[:, :3].sum(axis=1) - 1) < 1e-3).all()  # times are homogeneous in the rates


@pytest.mark.parametrize("words", [("train",), ("calibrate", "rtx3090")], ids=lambda x: x[0])
def test_of_several_campaigns_it_is_said_which_one_predictions_are_for(run, home, pool, tmp_path, words):
    device = SyntheticDevice(hardware="rtx3090")
    data = tmp_path / "two.jsonl"
    write_measurements(data, [*device.measure(pool[:10], run="150 W"), *device.measure(pool[:20], run="350 W")])
    out = run(*words, data)[1]
    assert "2 campaigns: predictions are for the board as in the one with the most layers, 350 W\n" in out


def test_calibrated_once_it_is_found_by_name(run, home, pool, tmp_path):
    data = tmp_path / "few.jsonl"
    write_measurements(data, [m_as(m, "rtx3090") for m in T2080.measure(pool[:30])])
    assert "from its data sheet only" in run("hardware", "rtx3090")[1]
    code, out, err = run("calibrate", "rtx3090", data)
    path = home / "models" / "rtx3090.json"
    assert (code, err) == (0, "") and path.is_file()
    assert out.splitlines()[0] == f"{path}: rtx3090, rtx3090 (data sheet), calibrated with 30 layers of rtx3090, 30 rows"
    assert out.splitlines()[1].startswith("layers left out in turn, energy: median error ")
    shown = run("hardware", "rtx3090")[1]
    assert "predictions: of a calibrated model" in shown and "layers left out in turn: median error of energy" in shown
    assert load_model("rtx3090").metadata.basis == "calibrated"
    # with more rows it starts anew: the calibrated model knows the rows that are left out in turn
    again = run("calibrate", "rtx3090", data)
    assert again[1:] == (out, "") and load_model("rtx3090").metadata.source.startswith("rtx3090 (data sheet), calibrated")
    code, _, err = run("calibrate", path, data, "--output", tmp_path / "again.json")
    assert code == 2 and "calibrated for rtx3090 already: start from what it came from (rtx3090 (data sheet)" in err
    assert not (tmp_path / "again.json").exists()


def test_a_model_that_takes_the_place_of_a_shipped_one_says_so(run, home, pool, tmp_path):
    data = tmp_path / "few.jsonl"
    write_measurements(data, [m_as(m, "gtx1070") for m in T2080.measure(pool[:30])])
    _, out, _ = run("calibrate", "rtx2080ti", data)
    assert out.splitlines()[-1] == "--hardware gtx1070 now means this model, not the shipped one: delete the file to go back"
    assert "now means" not in run("calibrate", "rtx2080ti", data, "--output", tmp_path / "gtx1070.json")[1]


def test_rows_that_the_model_was_trained_on_are_refused(model, pool, layers, device):
    """What they say when they are left out in turn is no error on layers unseen."""
    with pytest.raises(InputError, match="trained on these very rows"):
        calibrate(model, device.measure(layers))
    assert calibrate(model, device.measure(layers[:40])).metadata.rows == 40
    other = calibrate(calibrate(model, T2080.measure(pool[:40])), [m_as(m, "rtx3090") for m in T2080.measure(pool[:40])])
    assert other.hardware == "rtx3090", "a calibrated model of another device is a base like any other"


def test_trained_once_it_is_found_by_name_and_checked_on_networks(run, home, pool, tmp_path):
    device = SyntheticDevice(hardware="rtx3090")
    net = tmp_path / "net.py"
    net.write_text(
        "from torch import nn\ndef small():\n    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 1))\n"
    )
    whole = Measurement("rtx3090", 1e-3, 0.2, network=f"{net}:small", input_shapes=((8, 3, 64, 64),), tf32="none")
    data = tmp_path / "full.jsonl"
    write_measurements(data, [*device.measure(pool[:60]), whole])
    code, out, err = run("train", data)
    path = home / "models" / "rtx3090.json"
    assert (code, err) == (0, "") and path.is_file()
    assert "whole networks measured there (no test: the model may have learned from them" in out and "network" in out
    shown = json.loads(run("hardware", "rtx3090", "--json")[1])
    assert shown["basis"] == "measured" and shown["figures"][0]["split"] == "given"
    assert shown["figures"][0]["rows"] == 1 and shown["figures"][0]["mdape_frac"] > 0
    told = f"{load_model('rtx3090').metadata.left_out_mdape_frac:.1%}"
    assert f"layers left out in turn, energy: median error {told} (of layers like these)" in out and "campaign" not in out
    page = run("hardware", "rtx3090")[1]
    assert "of a measured model: 60 rows of 60 layers" in page
    assert f"layers left out in turn: median error of energy {told} over 60 rows" in page
    rows = wl.read_measurements(data)
    assert EnergyModel.train(rows).metadata.launches == load_model("rtx3090").metadata.launches, "in Python as here"
    # more rows calibrate what is known without that model, which knows these
    code, out, err = run("calibrate", "rtx3090", data, "--output", tmp_path / "more.json")
    assert code == 0 and "rtx3090 (data sheet), calibrated with 60 layers" in out
    assert err == "left out 1 row of whole networks: layers alone calibrate\n"
    assert "is a file: name a device" in run("hardware", path)[2]


def test_training_without_networks_says_how_to_check(run, pool, tmp_path):
    data = tmp_path / "full.jsonl"
    write_measurements(data, SyntheticDevice().measure(pool[:30]))
    code, out, _ = run("train", data, "--output", tmp_path / "mine.json")
    assert code == 0 and "no whole network was measured: check the model with `wattlayer evaluate --networks`" in out


def test_hardware_shows_what_is_here_and_whence_its_numbers_come(run, home):
    code, out, _ = run("hardware")
    assert code == 0 and "here: " in out and f"devices of your own: {home / 'hardware.toml'}" in out
    assert {"l4", "mi300x", "orin-nano-8gb"} <= {word for line in out.splitlines() for word in line.split()[:1]}
    one = run("hardware", "l4")[1]
    assert "dram_bytes_per_s: 3e+11  [NVIDIA L4 data sheet" in one
    assert "unmeasured a30: median error of energy" in one
    record = json.loads(run("hardware", "--json")[1])
    assert {d["name"]: d["basis"] for d in record["devices"]}["l4"] == "data sheet"
    code, out, err = run("hardware", "l5")
    assert (code, out) == (2, "") and "hardware 'l5' is not known; nearest: l4" in err and err.count("\n") == 1


def test_a_limit_and_a_clock_on_the_command_line(run, tmp_path):
    net = tmp_path / "net.py"
    net.write_text("from torch import nn\ndef small():\n    return nn.Conv2d(64, 256, 3)\n")
    size = ("predict", f"{net}:small", "--input", "32x64x56x56", "--format", "json", "--hardware", "l4")
    free, held = (json.loads(run(*size, *more)[1]) for more in ((), ("--power-limit-w", "40")))
    assert held["total"]["power_w"] <= 40.01 < free["total"]["power_w"]
    assert held["total"]["time_s"] > free["total"]["time_s"]
    assert "physics only" in held["model"]["conditions"] and free["model"]["conditions"] == ""
    code, out, err = run(*size, "--power-limit-w", "500")
    assert (code, out) == (2, "") and "power limit 500 W does not fit l4" in err
    csv = run(*size[:4], "--format", "csv", "--hardware", "l4")
    assert "nothing was measured on l4" in csv[2] and csv[0] == 0


def test_models_of_a_stated_power_say_so_everywhere(tmp_path, run, device, layers, model):
    """Energies that are a time times a stated power are assumed: no model that learned of them is called measured."""
    rows = [dataclasses.replace(m, meter="assumed-power") for m in device.measure(layers)]
    trained = EnergyModel.train(rows, name="stated")
    few = calibrate(model, rows[:40], name="few")
    on = calibrate(trained, [dataclasses.replace(m, hardware="gtx1070", meter="measured") for m in rows[40:80]], name="on")
    for told in (trained, few, on):
        assert told.metadata.basis == "assumed power"
        assert told.metadata.caveat.startswith("energies are measured times a stated power, assumed and not measured: ")
    assert "calibrated with" in few.metadata.caveat and few.metadata.calibrated and not trained.metadata.calibrated
    path = tmp_path / "stated.json"
    trained.save(path)
    loaded = EnergyModel.load(path)
    assert loaded.metadata.basis == "assumed power" and loaded.sha256 == trained.sha256
    for words in (("predict", "resnet18"), ("compare", "resnet18")):
        _, out, _ = run(*words, "--hardware", path)
        assert "assumed and not measured" in out
        code, out, _ = run(*words, "--hardware", path, "--format", "json")
        assert code == 0 and '"basis": "assumed power"' in out
    assert model.metadata.basis == "measured" and "stated" not in model.metadata.caveat
    with pytest.raises(InputError, match="was calibrated for a30 already"):
        calibrate(few, rows[:40])


def test_what_was_not_measured_on_the_device_is_neither_covered_nor_narrow(tmp_path, model, pool):
    """Where forty matrix products were measured, the model that they adapted knows convolutions of another board only."""
    products = [x for x in pool if x.group == "matmul"][:30]
    others = [x for x in pool if x.group != "matmul"]
    few = calibrate(model, T2080.measure(products))
    near, far = few.predict(products), few.predict(others)
    assert near.covered.all() and not near.extrapolated.any()
    assert not far.covered.any() and far.extrapolated.all()
    assert (far.half_width >= model.metadata.conformal.never).all() and near.half_width.max() < far.half_width.min()
    assert set(model.metadata.kinds) >= {x.kind for x in others}, "which it was trained on elsewhere"
    path = tmp_path / "few.json"
    few.save(path)
    loaded = EnergyModel.load(path)
    assert loaded.sha256 == few.sha256 and np.array_equal(loaded.predict(others).half_width, far.half_width)
    assert "own_support" not in json.loads((models_folder() / "a30.json").read_text())["metadata"]
