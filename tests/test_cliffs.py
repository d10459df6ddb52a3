"""Cliffs: steps at exact sizes are found where there are any and nowhere else, help both learners, and survive as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

import wattlayer as wl
from wattlayer.errors import InputError
from wattlayer.hardware import find_hardware
from wattlayer.model import EnergyModel, load_model
from wattlayer.model.cliffs import LEAST_STEP, MIN_ROWS, NONE, Cliffs, Plateau, find_cliffs
from wattlayer.model.file import checksum
from wattlayer.model.residual import MODEL_FEATURES
from wattlayer.train.calibration import adapt
from wattlayer.train.recipe import RECIPE, learn
from wattlayer.train.rows import Rows
from wattlayer.whatif.operating import operated

NAMES = MODEL_FEATURES[:-1]
INTO, OUT_OF, GROUP, DILATION = (NAMES.index(x) for x in ("log2_in_channels", "log2_out_channels", "group_code", "dilation"))


def drawn(count: int, seed: int, group: float = 1.0) -> np.ndarray:
    """Rows of layers of 16 to 512 whole channels each way, one in ten dilated, alike in all else."""
    random = np.random.default_rng(seed)
    rows = np.zeros((count, len(NAMES)))
    rows[:, [INTO, OUT_OF]] = np.log2(np.round(2.0 ** random.uniform(4, 9, (count, 2))))
    rows[:, DILATION] = 1.0 + (random.random(count) < 0.1)
    rows[:, GROUP] = group
    return rows


def slow(rows: np.ndarray) -> np.ndarray:
    """Whether the library takes its slow algorithm: 97 to 208 channels each way, without dilation."""
    channels = 2.0 ** rows[:, [INTO, OUT_OF]]
    return ((channels > 96.5) & (channels < 208.5)).all(axis=1) & (rows[:, DILATION] == 1)


def measured(rows: np.ndarray, step: float) -> np.ndarray:
    return 0.05 * np.sin(rows[:, INTO]) + step * slow(rows)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return drawn(800, seed=0)


@pytest.fixture(scope="module")
def cliffs(rows) -> Cliffs:
    return find_cliffs(rows, NAMES, measured(rows, 1.2), seed=0)


def test_a_box_of_slow_sizes_is_found_to_the_channel(cliffs):
    new = drawn(4000, seed=1)
    assert ((cliffs.steps(new, NAMES) > 0.6) == slow(new)).mean() > 0.97
    edge = new[:4].copy()
    edge[:, [INTO, OUT_OF, DILATION]] = [[np.log2(93), 7, 1], [np.log2(101), 7, 1], [np.log2(101), 7, 2], [7, np.log2(215), 1]]
    assert list(cliffs.steps(edge, NAMES) > 0.6) == [False, True, False, False]


def test_rows_in_the_precision_of_trees_lie_on_the_same_plateaus(rows, cliffs):
    assert np.array_equal(cliffs.steps(rows, NAMES), cliffs.steps(rows.astype(np.float32), NAMES))


@pytest.mark.parametrize("step", [0.0, 0.5 * LEAST_STEP])
def test_what_is_smooth_or_steps_a_little_has_no_cliffs(rows, step):
    random = np.random.default_rng(2)
    assert find_cliffs(rows, NAMES, measured(rows, step) + 0.03 * random.standard_normal(len(rows)), seed=0) == NONE


def test_scatter_that_looks_like_steps_tells_nothing_of_layers_left_out(rows):
    assert find_cliffs(rows, NAMES, np.random.default_rng(3).standard_normal(len(rows)), seed=0) == NONE


@pytest.mark.parametrize("differs", ["run", "tensor_core", "log2_scaffold_us"])
def test_repeats_of_one_shape_do_not_vouch_for_each_other(differs):
    """Campaigns measure the same layers: what is odd of each shape is odd again, and no cliff."""
    odd = np.random.default_rng(5).standard_normal(100)
    rows = np.repeat(drawn(100, seed=4), 8, axis=0)
    rows[:, NAMES.index(differs)] = np.arange(800) % 8
    assert find_cliffs(rows, NAMES, np.repeat(odd, 8), seed=0) == NONE


def test_one_shape_alone_has_no_cliffs():
    rows = np.repeat(drawn(1, seed=4), 2 * MIN_ROWS, axis=0)
    assert find_cliffs(rows, NAMES, np.random.default_rng(5).standard_normal(2 * MIN_ROWS), seed=0) == NONE


def test_other_groups_stay_where_they_are_and_few_rows_have_none(cliffs):
    other = drawn(20, seed=6, group=2.0)
    assert not cliffs.steps(other, NAMES).any()
    few = drawn(MIN_ROWS - 1, seed=7)
    assert find_cliffs(few, NAMES, measured(few, 1.2), seed=0) == NONE


def test_both_learners_tell_layers_beside_a_cliff_better_for_it(rows, cliffs):
    new = drawn(400, seed=8)

    def wrong(told: Cliffs) -> tuple[float, float]:
        table, asked = (np.column_stack([x[:, :-1], told.steps(x, NAMES)]) for x in (rows, new))
        learned = learn(table, measured(rows, 1.2), 0, RECIPE)
        answers = learned.ask(asked.astype(np.float32), np.ones(400)), learned.neighbours.ask(asked, NAMES)[0]
        return tuple(float(np.abs(x - measured(new, 1.2)).mean()) for x in answers)

    for told, bare in zip(wrong(cliffs), wrong(NONE)):
        assert told < 0.6 * bare


def test_it_is_the_same_after_json_and_refuses_what_does_not_fit(cliffs):
    record = json.loads(json.dumps(asdict(cliffs)["groups"]))
    assert Cliffs.from_json(record) == cliffs
    for spoilt, reason in (
        ({"1": [{"step": 1.0, "above": {"colour": 1.0}, "up_to": {}}]}, "'colour', which is no feature"),
        ({"1": []}, "leave no plateau"),
        ({"conv": []}, "could not convert"),
    ):
        with pytest.raises(ValueError, match=reason):
            Cliffs.from_json(spoilt)
    for spoilt in (
        {"1": [{"step": 1.0}]},
        {"1": [{"above": {}, "up_to": {}}]},
        {"1": [[]]},
        {"1": [{"step": 1.0, "above": [1]}]},
        [1, 2],
    ):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Cliffs.from_json(spoilt)  # type: ignore[arg-type]


def test_a_model_keeps_its_cliffs_and_refuses_spoilt_ones_in_one_line(tmp_path):
    model = load_model("jetson-nano")
    assert model.regressor.cliffs.groups
    path = tmp_path / "model.json"
    model.save(path)
    assert EnergyModel.load(path).regressor.cliffs == model.regressor.cliffs
    record = json.loads(path.read_text())
    del record["sha256"]
    for spoilt in ([1], {"1": [{"step": 0.5, "above": [7], "up_to": {}}]}, {"1": [{"step": 10**400, "above": {}}]}):
        altered = record | {"cliffs": spoilt}
        path.write_text(json.dumps(altered | {"sha256": checksum(altered)}))
        with pytest.raises(InputError, match="not a wattlayer model that this version can use") as caught:
            EnergyModel.load(path)
        assert "\n" not in str(caught.value)


def test_times_and_powers_are_told_and_stay_so_at_another_clock():
    model = load_model("jetson-nano")
    convolution = nn.Conv2d(150, 150, 1, device="meta")
    layers = wl.trace(convolution, torch.empty((1, 150, 7, 7), device="meta"), tf32="none").layers
    flat = replace(model, regressor=replace(model.regressor, cliffs=NONE))
    told, untold = model.predict(layers), flat.predict(layers)
    assert told.time_s > 1.5 * untold.time_s
    assert told.power_w > 1.2 * untold.power_w
    assert operated(model, clock_mhz=500.0).regressor.cliffs == model.regressor.cliffs


def test_another_device_takes_over_trees_and_no_cliffs():
    base, device = load_model("jetson-nano"), find_hardware("a30")
    layers = tuple(
        wl.trace(nn.Conv2d(n, n, 1, device="meta"), torch.empty((1, n, 7, 7), device="meta")).layers[0] for n in range(90, 130)
    )
    rows = Rows(layers, ("run",) * len(layers), np.full(len(layers), 1e-4), np.full(len(layers), 60.0))
    adapted = adapt(base, rows, device, seed=0).regressor
    assert adapted.cliffs == NONE != base.regressor.cliffs
    assert adapted.time.trees.num_features() == base.regressor.time.trees.num_features()


def test_many_at_once_lie_where_they_lie_one_by_one(cliffs):
    many = drawn(10_000, seed=11)
    assert np.array_equal(cliffs.steps(many, NAMES)[-50:], [cliffs.steps(x[None], NAMES)[0] for x in many[-50:]])


def test_a_plateau_without_bounds_is_everywhere():
    assert Cliffs({"1": (Plateau(0.7, {}, {}),)}).steps(drawn(5, seed=9), NAMES) == pytest.approx([0.7] * 5)
