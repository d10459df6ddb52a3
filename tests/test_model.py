"""Training, predicting, saving and refusing models."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SyntheticDevice, draw_layers, needs_torchvision
from torch import nn

from wattlayer import EnergyModel, InputError, Layer, Measurement, load_model, trace
from wattlayer.dataset import write_measurements
from wattlayer.features import FEATURES_VERSION
from wattlayer.features.columns import Columns
from wattlayer.hardware import find_hardware
from wattlayer.kinds import KINDS
from wattlayer.model.file import SCHEMA, checksum, read_metadata
from wattlayer.model.folders import shipped_models
from wattlayer.model.intervals import CLASSES, FADING_OCTAVES
from wattlayer.model.power import CONSUMERS
from wattlayer.model.residual import MODEL_FEATURES, Residual
from wattlayer.model.roofline import RATES
from wattlayer.model.support import NEVER_OCTAVES
from wattlayer.trace import Trace
from wattlayer.trace.rewrite import with_weights
from wattlayer.train import left_out
from wattlayer.train.calibration import calibrate
from wattlayer.train.folds import BLOCKS, FOLDS, LARGEST_FRAC, leaving_out
from wattlayer.train.recipe import ALIGNMENT, RECIPE, boost, fit
from wattlayer.train.rows import merge
from wattlayer.train.transfer import teachers


def with_weights_in(layer: Layer, dtype: str) -> Layer:
    (held,) = with_weights(Trace("", (layer,), ("",)), dtype).layers
    return held


def test_unseen_layers_are_predicted_within_the_noise(device, model):
    new = draw_layers(60, seed=1)
    time_s, power_w = device.truth(new)
    predicted = model.predict(new)
    assert np.median(np.abs(predicted.energy_j / (time_s * power_w) - 1)) < 0.05
    assert np.allclose(predicted.energy_j, predicted.time_s * predicted.power_w)


def test_layers_ten_times_larger_follow_the_scaffold(device, model):
    large = [x for x in draw_layers(60, seed=2, scale=10) if x.flop > 1e9]
    time_s, _ = device.truth(large)
    predicted = model.predict(large).time_s
    assert len(large) > 10
    assert np.median(np.abs(predicted / time_s - 1)) < 0.12


def thin(m: int) -> Layer:
    """A linear layer from 256 to 4096 features of `m` rows, which none of `draw_layers` resembles."""
    return trace(nn.Linear(256, 4096, device="meta"), torch.empty((m, 256), device="meta")).layers[0]


@pytest.mark.parametrize(
    ("octaves", "kept"), [(0.0, 1.0), (FADING_OCTAVES, np.exp(-1)), (NEVER_OCTAVES, 0.0)], ids=["within", "beyond", "never"]
)
def test_what_was_learned_of_times_fades_beyond_the_largest_layer(model, octaves, kept):
    regressor = replace(model.regressor, time=Residual(model.regressor.time.trees))
    columns = Columns([thin(1), thin(1 << 20)], find_hardware(model.hardware))
    run, kinds = np.zeros(2), frozenset(model.metadata.kinds)
    scaffold = np.log(regressor.scaffold.time_s(columns, run))
    whole, found = (regressor.log_time_power(columns, kinds, run, np.full(2, x))[0] - scaffold for x in (0.0, octaves))
    assert np.all(np.abs(whole) > 1e-4), "trees have something to say"
    assert found == pytest.approx(kept * whole, abs=1e-9)


def test_no_layer_draws_less_than_its_board_does_idle(model):
    # what is learned of power may fall below any physics
    weak = replace(model.regressor, drawn=replace(model.regressor.drawn, consumers_w=(1e-3,) * len(CONSUMERS)))
    layers = draw_layers(20, seed=1)
    told = replace(model, regressor=weak).predict(layers)
    idle_w = find_hardware(model.hardware).idle_w
    np.testing.assert_allclose(told.power_w, idle_w)
    np.testing.assert_allclose(told.energy_j, told.time_s * told.power_w)
    assert (told.energy_low_j < told.energy_j).all() and (told.energy_j < told.energy_high_j).all()
    assert (model.predict(layers).power_w > idle_w).all()


def test_a_layer_unlike_all_others_but_no_larger_keeps_what_was_learned(model):
    """Trees answer flatly beyond the largest layer; a gap between measured shapes they bridge no worse than the scaffold."""
    columns, run = Columns([thin(1)], find_hardware(model.hardware)), np.zeros(1)
    whole, _ = model.regressor.log_time_power(columns, frozenset(model.metadata.kinds), run, run)
    p = model.predict([thin(1)])
    assert p.extrapolated.tolist() == [True]
    assert np.log(p.time_s) == pytest.approx(whole)
    large = model.predict([thin(1 << 20)]).time_s
    assert large == pytest.approx(model.regressor.scaffold.time_s(Columns([thin(1 << 20)], columns.hardware), run), rel=1e-6)


def test_intervals_hold_what_they_say(device, model):
    new = draw_layers(200, seed=3)
    measured = np.array([m.energy_j for m in device.measure(new, seed=9)])
    p = model.predict(new)
    assert 0.82 <= np.mean((p.energy_low_j <= measured) & (measured <= p.energy_high_j)) <= 1.0


def test_layers_are_left_out_singly_with_their_like_and_the_largest_together(device):
    layers = draw_layers(50)
    rows = merge(device.measure([*layers, *(x.with_tf32("all") for x in layers)]))
    folds = list(leaving_out(rows, Columns(rows.layers, find_hardware("a30")), seed=0))
    assert [how for how, _ in folds] == ["singly"] * FOLDS + ["alike"] * BLOCKS + ["largest"]
    for how in ("singly", "alike"):
        assert sum(fold.astype(int) for name, fold in folds if name == how).tolist() == [1] * len(rows.layers), "each once"
    out = {x.with_tf32("none") for x, chosen in zip(rows.layers, folds[-1][1]) if chosen}
    inside = {x.with_tf32("none") for x, chosen in zip(rows.layers, folds[-1][1]) if not chosen}
    assert not out & inside, "with and without TF32 on one side"
    assert len(out) == round(len(out | inside) * LARGEST_FRAC) and min(x.flop for x in out) >= max(x.flop for x in inside)


def test_intervals_are_of_single_readings_not_of_their_medians(device, layers):
    noisy = replace(device, noise_frac=0.2)
    repeats = [m for seed in range(9) for m in noisy.measure(layers, seed=seed)]
    own = EnergyModel.train(repeats).predict(layers)
    medians = merge(repeats)
    once = [
        Measurement("a30", t, t * p, layer=x, run=run)
        for x, run, t, p in zip(medians.layers, medians.runs, medians.time_s.tolist(), medians.power_w.tolist())
    ]
    assert np.median(own.half_width / EnergyModel.train(once).predict(layers).half_width) > 1.2
    fresh = np.array([m.energy_j for m in noisy.measure(layers, seed=99)])
    assert np.mean((own.energy_low_j <= fresh) & (fresh <= own.energy_high_j)) > 0.85


def test_readings_again_tell_nothing_new_of_intervals(device):
    """What is known of thirty layers does not grow by reading them ten times alike."""
    once = device.measure(draw_layers(30))
    first, again = (EnergyModel.train(rows).metadata for rows in (once, once * 10))
    assert (again.rows, again.layers) == (300, 30) and again.left_out_mdape_frac == first.left_out_mdape_frac
    told = [(*x.quantiles.values(), *x.widening, *x.factors, x.correlation) for x in (first.conformal, again.conformal)]
    assert told[1] == pytest.approx(told[0], rel=1e-9)


def test_intervals_count_a_layer_once_in_whatever_campaign_and_arithmetic(device, monkeypatch):
    """Thirty layers in two campaigns, in one of them read twice and with TF32 as well."""
    few, seen = draw_layers(30), []
    rows = [m for seed in (0, 1) for m in device.measure([*few, *(x.with_tf32("all") for x in few)], seed=seed)]
    plain = left_out.Conformal.fit
    monkeypatch.setattr(left_out.Conformal, "fit", lambda own, *more: seen.append(own) or plain(own, *more))
    monkeypatch.setattr(left_out, "correlation", lambda *_, layer: seen.append(layer) or 0.5)
    EnergyModel.train([*rows, *device.measure(few, run="r2")])
    number, own = seen
    assert len(set(number.tolist())) == len(set(own.layer.tolist())) == 30
    shapes = len({x.with_tf32("all") for x in few} | set(few))
    assert len(number) == shapes + 30, "each row is left out once with those like it"
    assert own.votes.sum() == pytest.approx(len(set(own.row.tolist()))) and own.votes.sum() >= shapes + 30
    assert set(own.votes.tolist()) == {1.0, 0.5, 0.25}, "read once, twice and, those that TF32 is nothing to, four times"


def test_a_trained_model_tells_its_error_on_layers_left_out(device, model, layers):
    """Each layer predicted without its fold, which errs more than the model that knows them all, and less than others'."""
    told, rows = model.metadata.left_out_mdape_frac, device.measure(layers)
    assert told is not None and not model.metadata.calibrated
    known = np.median(np.abs(model.predict(layers).energy_j / np.array([m.energy_j for m in rows]) - 1))
    new = draw_layers(600)[150:]
    time_s, power_w = device.truth(new)
    unknown = np.median(np.abs(model.predict(new).energy_j / (time_s * power_w) - 1))
    assert known < told and 0.5 < told / unknown < 2


def test_the_class_of_a_layer_tells_its_interval(model):
    """Both are far from all others and long; one is larger than all of them."""
    own, two = model.metadata.conformal, [thin(32), thin(1 << 20)]
    assert own.factors != (1.0,) * CLASSES and model.predict(two).time_s.min() > own.long_s > 0
    doubled = tuple(x * (2.0 if i == 7 else 1.0) for i, x in enumerate(own.factors))
    other = replace(model, metadata=replace(model.metadata, conformal=replace(own, factors=doubled)))
    assert (other.predict(two).half_width / model.predict(two).half_width).tolist() == pytest.approx([1, 2])


def test_long_layers_are_those_above_the_median_measured(device, model, layers):
    assert model.metadata.conformal.long_s == float(np.median([m.time_s for m in device.measure(layers)]))


def test_kinds_never_measured_are_uncovered_extrapolated_and_wider(model, layers):
    relu = next(x for x in layers if x.kind == "relu")
    unknown = replace(relu, kind="mish")
    p = model.predict([relu, unknown])
    assert p.covered.tolist() == [True, False]
    assert p.extrapolated.tolist() == [False, True]
    assert p.half_width[1] > p.half_width[0]
    assert p.energy_j[1] > 0


@pytest.mark.parametrize("name", shipped_models())
def test_kinds_without_a_formula_are_uncovered(name, layers):
    shipped, relu = load_model(name), next(x for x in layers if x.kind == "relu")
    unknown = replace(relu, kind="mylib::attention")
    assert unknown.flop == unknown.outputs[0].elements and not shipped.predict([unknown]).covered.any()
    assert all(kind in KINDS for kind in shipped.metadata.kinds)


def test_another_dtype_is_extrapolated(model, layers):
    layer = layers[0]
    half = replace(layer, inputs=tuple(replace(x, dtype="float16") for x in layer.inputs), tf32=False)
    assert model.predict([half]).extrapolated.tolist() == [True]


@pytest.mark.parametrize("name", shipped_models())
def test_weights_in_fewer_bytes_never_cost_more_and_nothing_else_of_a_layer_changes(name):
    shipped = load_model(name)
    plain = [
        trace(nn.Linear(k, n, device="meta"), torch.empty(m, k, device="meta"), dtype="float16").layers[0]
        for m in (1, 7, 64, 2048) for k, n in ((64, 64), (64, 100), (768, 3072), (4096, 4096))
    ]  # fmt: skip
    prices = [shipped.predict([with_weights_in(x, dtype) for x in plain]).energy_j for dtype in ("float16", "int8", "int4")]
    assert (prices[1] <= prices[0] * (1 + 1e-12)).all() and (prices[2] <= prices[1] * (1 + 1e-12)).all()
    assert (prices[2] < prices[0]).any()
    assert [x.as_computed() for x in plain] == plain
    assert [with_weights_in(x, "int4").as_computed() for x in plain] == plain
    together = shipped.predict([plain[5], with_weights_in(plain[5], "int8")]).energy_j
    assert together[0] == pytest.approx(prices[0][5], rel=1e-9), "beside held weights too"


def test_a_model_knows_whether_its_reference_campaign_was_measured_in_loops(device):
    layers = draw_layers(60)
    many, few = device.measure(layers[:40], run="many"), device.measure(layers[20:45], run="few")
    loops = [[replace(m, mode="eager") for m in rows] for rows in (many, few)]
    assert EnergyModel.train([*loops[0], *few]).metadata.looped and EnergyModel.train(loops[0]).metadata.looped
    assert not EnergyModel.train([*many, *loops[1]]).metadata.looped


def test_training_is_deterministic_by_seed(device):
    rows = device.measure(draw_layers(40))
    first, second = (EnergyModel.train(rows, seed=5) for _ in range(2))
    assert first.sha256 == second.sha256
    assert EnergyModel.train(rows, seed=6).sha256 != first.sha256


def test_the_order_of_rows_makes_no_other_model(device):
    """As their digest says: a table may be sorted, and files come in any order."""
    layers = draw_layers(40)
    rows = [*device.measure(layers), *device.measure(layers[::2], seed=1), *device.measure(layers[::3], seed=2, run="later")]
    shuffled = np.random.default_rng(0).permutation(np.array(rows, dtype=object)).tolist()
    assert EnergyModel.train(shuffled).sha256 == EnergyModel.train(rows).sha256
    base = load_model("a30")
    assert calibrate(base, shuffled).sha256 == calibrate(base, rows).sha256


def test_a_hotter_campaign_is_told_apart(device, layers):
    cool = device.measure(layers, run="cool")
    hot = [replace(m, energy_j=m.energy_j * 1.5, run="hot") for m in device.measure(layers[:100], seed=1)]
    trained = EnergyModel.train(cool + hot)
    ratio = trained.predict(layers[:20], ["hot"] * 20).power_w / trained.predict(layers[:20]).power_w
    assert 1.3 < np.median(ratio) < 1.6


def test_saved_and_loaded_models_agree(tmp_path, model, layers):
    path = tmp_path / "synthetic.json"
    model.save(path)
    loaded = EnergyModel.load(path)
    assert loaded.sha256 == model.sha256
    assert np.array_equal(loaded.predict(layers).energy_low_j, model.predict(layers).energy_low_j)
    assert [p.name for p in tmp_path.iterdir()] == ["synthetic.json"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "truncated"),
        (lambda text: text.replace('"rows":150', '"rows":151'), "checksum"),
        (lambda text: text.replace(f'"features":{FEATURES_VERSION},', '"features":999,', 1), "retrain"),
        (lambda text: text.replace(f'"wattlayer_model":{SCHEMA}', f'"wattlayer_model":{SCHEMA + 1}'), "retrain"),
        (lambda text: "[1, 2]", "not a wattlayer model"),
        (lambda text: "{}", "not a wattlayer model"),
        (lambda text: "[" * 100_000, "not a wattlayer model"),
        (lambda text: f'{{"wattlayer_model": {SCHEMA}}}', "'metadata' is missing"),
    ],
)
def test_damaged_files_are_refused_with_a_reason(tmp_path, model, change, reason):
    path = tmp_path / "bad.json"
    model.save(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=reason) as caught:
        EnergyModel.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_of_numbers_that_are_none_is_refused(tmp_path, model, value):
    path = tmp_path / "m.json"
    model.save(path)
    record = json.loads(path.read_text())
    record.pop("sha256")
    record["metadata"]["limit_w"] = value
    path.write_text(json.dumps(record | {"sha256": checksum(record)}))
    with pytest.raises(InputError, match="is not a wattlayer model"):
        load_model(str(path))


def test_a_forged_checksum_over_missing_fields_is_still_refused(tmp_path, model):
    path = tmp_path / "forged.json"
    model.save(path)
    record = json.loads(path.read_text())
    del record["sha256"], record["metadata"]["kinds"]
    path.write_text(json.dumps(record | {"sha256": checksum(record)}))
    with pytest.raises(InputError, match="forged"):
        EnergyModel.load(path)


def test_a_model_with_parts_of_an_older_version_names_them_and_the_cure(model, tmp_path):
    path = tmp_path / "older.json"
    model.save(path)
    record = json.loads(path.read_text())
    del record["sha256"]
    record["metadata"]["launches"] = {"host_s": {"*": 1e-5}, "pause_s": 1e-6}
    path.write_text(json.dumps(record | {"sha256": checksum(record)}))
    with pytest.raises(InputError, match=r"older.json .*pause_s.*: retrain it$"):
        EnergyModel.load(path)


def forged(path: Path, model: EnergyModel, *change) -> Path:
    """A file of `model` with the last of `change` in the place that the others lead to, signed anew."""
    model.save(path)
    record = json.loads(path.read_text())
    del record["sha256"]
    *way, last, value = change
    place = record
    for key in way:
        place = place[key]
    place[last] = value(place[last]) if callable(value) else value
    path.write_text(json.dumps(record | {"sha256": checksum(record)}))
    return path


TREES = ("trees", "learner", "gradient_booster", "model", "trees", 0)


@pytest.mark.parametrize("part", ["time", "power"])
@pytest.mark.parametrize(
    ("way", "value"),
    [
        ((*TREES, "left_children"), lambda x: [10**6] * len(x)),
        ((*TREES, "left_children"), lambda x: [0] * len(x)),
        ((*TREES, "left_children"), lambda x: [-7] * len(x)),
        ((*TREES, "right_children"), lambda x: x[:-1]),
        ((*TREES, "split_indices"), lambda x: [-5] * len(x)),
        ((*TREES, "split_indices"), lambda x: [10**6] * len(x)),
        ((*TREES, "split_conditions"), lambda x: ["a"] * len(x)),
        ((*TREES, "parents"), lambda x: [10**6] * len(x)),
        ((*TREES, "parents"), lambda x: [x[0], *[0] * (len(x) - 1)]),
        ((*TREES, "tree_param", "size_leaf_vector"), "1000"),
        ((*TREES, "categories"), [1]),
        ((*TREES, "id"), 1),
        ((*TREES, "base_weights"), lambda x: x[:-1]),
        ((*TREES[:-2], "tree_info"), lambda x: [10**6 for _ in x]),
        ((*TREES[:-2], "tree_info"), lambda x: [-5 for _ in x]),
        ((*TREES[:-1],), lambda x: {}),
        (("trees", "learner", "learner_model_param", "num_feature"), "3"),
        (("trees", "learner", "learner_model_param", "num_class"), "3"),
        (("trees", "learner", "objective", "name"), "reg:logistic"),
        (("neighbours",), []),
    ],
)
def test_trees_that_would_lead_out_of_memory_are_refused(tmp_path, model, part, way, value):
    """XGBoost follows them unchecked: some of these ended the process."""
    with pytest.raises(InputError, match="is not a wattlayer model that this version can use") as caught:
        EnergyModel.load(forged(tmp_path / "forged.json", model, part, *way, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("way", "value"),
    [
        (("hardware",), None), (("rows",), "many"), (("kinds",), [{}]), (("runs",), []), (("run_power_shift",), [0.0] * 9),
        (("limit_w",), -1.0), (("limit_w",), True), (("consumers_w",), [1.0]), (("consumers_w",), lambda x: [-5.0 for _ in x]),
        (("log_rates",), {}), (("log_rates", "*"), [0.0]), (("support",), {"relu|float32|": []}), (("basis",), "x"),
        (("support",), {"relu|float32|": [[1.0]]}), (("feature_names",), ["m"]), (("conformal", "correlation"), 1.5),
        (("conformal", "never"), 0.0), (("conformal", "quantiles", "*"), -3.0),
        (("conformal", "widening"), lambda x: [0.0 for _ in x]),
        (("launches",), {"host_s": {"*": 1e-5}, "idle_w": 1e300}), (("launches",), {"host_s": "a"}),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_are_refused(tmp_path, model, way, value):
    with pytest.raises(InputError, match="is not a wattlayer model that this version can use"):
        EnergyModel.load(forged(tmp_path / "forged.json", model, "metadata", *way, value))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("way", "value"),
    [
        (("power", "trees", "learner", "learner_model_param", "base_score"), "[-1E30]"),
        (("time", "trees", "learner", "learner_model_param", "base_score"), "[1E30]"),
        (("metadata", "log_rates"), lambda rates: {name: [1000.0] * len(row) for name, row in rates.items()}),
        (("metadata", "conformal", "never"), 1e6),
    ],
)
def test_what_is_no_energy_is_refused_and_not_told(tmp_path, model, layers, way, value):
    unseen = trace(nn.LSTM(8, 8, device="meta"), torch.empty(4, 2, 8, device="meta")).layers
    with pytest.raises(InputError, match="tells no energy of"):
        EnergyModel.load(forged(tmp_path / "forged.json", model, *way, value)).predict([*layers, *unseen])


def test_a_number_past_all_is_no_json(tmp_path, model):
    path = tmp_path / "m.json"
    model.save(path)
    path.write_text(path.read_text().replace('"limit_w":', '"limit_w":1e999,"limit_w":'))
    with pytest.raises(InputError, match="is not a wattlayer model"):
        EnergyModel.load(path)


def test_a_model_file_of_another_name_is_found_and_one_that_it_is_not_is_refused(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("mine.model")
    assert load_model("mine.model").sha256 == model.sha256, "a file that is there"
    with pytest.raises(InputError, match=r"mine.ubj: model files are JSON: name it mine.json"):
        model.save("mine.ubj")
    assert not (tmp_path / "mine.ubj").exists()


def test_a_pickle_is_not_a_model(tmp_path):
    path = tmp_path / "evil.json"
    path.write_bytes(pickle.dumps({"wattlayer_model": 1}))
    with pytest.raises(InputError, match="not a wattlayer model"):
        EnergyModel.load(path)


def test_too_few_mixed_or_foreign_rows_are_refused(device, layers):
    rows = device.measure(layers)
    with pytest.raises(InputError, match="too few"):
        EnergyModel.train(rows[:10])
    with pytest.raises(InputError, match="of gtx1070 are too few"):
        EnergyModel.train(rows, hardware="gtx1070")
    with pytest.raises(InputError, match="choose one with --hardware"):
        EnergyModel.train([*rows, replace(rows[0], hardware="gtx1070")])
    with pytest.raises(InputError, match="mixed"):
        EnergyModel.train([*rows, replace(rows[0], meter="assumed-power")])


@needs_torchvision
def test_networks_among_the_rows_are_no_layers(device, layers):
    rows = device.measure(layers[:30])
    network = Measurement("a30", 0.01, 1.0, network="resnet18", input_shapes=((1, 3, 224, 224),))
    assert EnergyModel.train([*rows, network]).metadata.rows == 30


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_load_and_have_a_card(name):
    model = load_model(name)
    assert (model.name, model.hardware) == (name, name)
    assert name in shipped_models()
    from wattlayer.model.folders import models_folder

    card = (models_folder() / f"{name}.md").read_text()
    for fact in (model.sha256[:16], model.metadata.data_sha256[:16], f"{model.metadata.rows} of {model.metadata.layers}"):
        assert fact in card


def test_unknown_models_are_named_with_what_there_is():
    with pytest.raises(InputError, match="a30"):
        load_model("a31")


def test_runs_never_seen_mean_the_reference(model, layers):
    chosen: list[Layer] = layers[:5]
    assert np.array_equal(model.predict(chosen, ["nowhere"] * 5).energy_j, model.predict(chosen).energy_j)


def test_the_synthetic_device_is_noisy_enough_to_fail():
    exact, noisy = SyntheticDevice(0.0), SyntheticDevice(0.3)
    some = draw_layers(5)
    assert exact.measure(some)[0].energy_j != noisy.measure(some)[0].energy_j


def test_what_was_not_measured_is_told_at_the_rates_of_other_devices(device, layers):
    """Of a board that showed element-wise kernels alone, products are told as its data sheet and other boards have them."""
    relus = [x for x in draw_layers(90) if x.kind == "relu"]
    lesson = teachers(find_hardware("a30"))
    model = EnergyModel.train(device.measure(relus))
    assert model.metadata.taught_by == lesson.hardware and "a30" not in lesson.hardware
    at = [i for i, name in enumerate(RATES) if name not in ("host", "latency")]
    for name in ("group:matmul", "cell:linear", "group:conv"):
        assert [model.metadata.log_rates[name][i] for i in at] == [lesson.log_rates[name][i] for i in at]
    matrix = CONSUMERS.index("matrix")
    assert model.metadata.consumers_w[matrix] == lesson.drawn(find_hardware("a30")).consumers_w[matrix]
    products = [x for x in layers if x.kind == "linear"]
    told = model.predict(products)
    assert not told.covered.any()
    alone = fit(merge(device.measure(relus)), "a30", 0, replace(RECIPE, taught=False))
    assert set(alone.scaffold.log_rates) < set(model.metadata.log_rates), "the same, and more"
    measured = set(alone.scaffold.log_rates) - {"*"}
    assert measured == {"group:elementwise", "cell:relu", "cell:relu@r1"}
    assert all(model.metadata.log_rates[name] == alone.scaffold.log_rates[name] for name in measured)
    host = RATES.index("host")
    assert model.metadata.log_rates["*"][host] == alone.scaffold.log_rates["*"][host]


@pytest.mark.parametrize("name", ["xeon-gold-5120", "epyc-9654"])
def test_one_other_device_or_none_teaches_nothing(name):
    """The one processor that was measured ran on one of its cores: it is no rule for others."""
    relus = [x for x in draw_layers(90) if x.kind == "relu"]
    assert teachers(find_hardware(name)) is None
    found = EnergyModel.train(SyntheticDevice(hardware=name).measure(relus)).metadata
    assert found.taught_by == () and not any("matmul" in rates for rates in found.log_rates)


def test_who_taught_is_kept_in_the_file_and_left_behind_at_calibration(device, layers, tmp_path):
    model = EnergyModel.train(device.measure(layers), name="mine")
    model.save(tmp_path / "mine.json")
    loaded = EnergyModel.load(tmp_path / "mine.json")
    assert loaded.metadata.taught_by == loaded.regressor.taught_by == teachers(find_hardware("a30")).hardware
    moved = calibrate(loaded, SyntheticDevice(hardware="rtx2080ti").measure(layers[:30]))
    assert moved.metadata.taught_by == moved.regressor.taught_by == ()


def test_a_folder_that_is_not_there_is_told_in_one_line(model, tmp_path):
    gone = tmp_path / "gone" / "m.json"
    with pytest.raises(InputError, match=r"m\.json cannot be written: No such file or directory$"):
        model.save(gone)
    with pytest.raises(InputError, match=r"m\.json cannot be written: No such file or directory$"):
        write_measurements(gone, [])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_no_generator_takes_are_refused(seed, device, layers):
    measurements = device.measure(layers)
    with pytest.raises(InputError, match=f"seed {seed} must be between 0 and"):
        EnergyModel.train(measurements, seed=seed)
    with pytest.raises(InputError, match=f"seed {seed} must be between 0 and"):
        calibrate(load_model("a30"), measurements, seed=seed)


@pytest.mark.parametrize("feature", ALIGNMENT)
def test_what_trees_learn_of_time_never_rises_with_alignment_and_that_of_power_may(feature):
    random = np.random.default_rng(0)
    for names, rises in ((MODEL_FEATURES[:-1], False), (MODEL_FEATURES, True)):
        table, column = random.random((400, len(names))), names.index(feature)
        booster = boost(table, table[:, column] + table[:, 0], seed=0, recipe=replace(RECIPE, rounds=30))
        fuller = np.repeat(table[:20], 11, axis=0)
        fuller[:, column] = np.tile(np.linspace(0, 1, 11), 20)
        steps = np.diff(booster.inplace_predict(fuller).reshape(20, 11), axis=1)
        assert steps.max() > 0.01 if rises else steps.max() <= 0


def test_a_forked_process_reads_and_asks_models_as_well():
    """Threads of a parent are not there in a child: what waits for them waits for ever."""
    code = """
import multiprocessing, sys
import wattlayer as wl

def ask(path):
    return wl.predict("resnet18", hardware=path).energy_j

here = ask(sys.argv[1])
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert pool.apply_async(ask, (sys.argv[1],)).get(60) == here
"""
    path = Path(__file__).parents[1] / "models" / "gtx1070.json"
    threaded = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=False, capture_output=True, text=True, timeout=200, env=threaded
    )
    assert done.returncode == 0, done.stderr


def test_what_is_no_row_and_no_seed_is_refused(device, layers):
    for rows in ("mine.jsonl", [{"hardware": "a30"}]):
        with pytest.raises(InputError, match="is no Measurement: `read_measurements` or"):
            EnergyModel.train(rows)
    for seed in (1.5, True, "0"):
        with pytest.raises(InputError, match="is not a whole number"):
            EnergyModel.train(device.measure(layers), seed=seed)
    with pytest.raises(InputError, match=r"0 distinct measured layers of b999 are too few .*\(rows are of a30\)"):
        EnergyModel.train(device.measure(layers), hardware="b999")


@pytest.mark.parametrize(("name", "told"), [
    ("x" * 5000 + ".json", r"cannot be looked for: .*name too long"), ("a\0.json", "is not a wattlayer model"),
    ("a\0", "no model and no hardware is called"),
])  # fmt: skip
def test_names_that_no_file_can_have_are_refused(name, told):
    with pytest.raises(InputError, match=told):
        load_model(name)


def test_what_a_model_says_of_itself_is_read_without_xgboost(tmp_path):
    """And with the same care."""
    path = Path(__file__).parents[1] / "models" / "a30.json"
    code = (
        "import sys; from pathlib import Path; from wattlayer.model.file import read_metadata; "
        f"print(read_metadata(Path({str(path)!r})).layers); assert not {{'xgboost', 'torch'}} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == load_model("a30").metadata.layers
    spoiled = tmp_path / "a30.json"
    spoiled.write_text(path.read_text().replace('"hardware":"a30"', '"hardware":"l40"', 1))
    with pytest.raises(InputError, match="does not match its checksum"):
        read_metadata(spoiled)
