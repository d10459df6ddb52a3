"""Cliffs: steps at exact sizes are found where there are any and nowhere else, help both learners, and survive as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from wattlayer.cliffs import LEAST_STEP, MIN_ROWS, NONE, Cliffs, Plateau, find_cliffs
from wattlayer.errors import InputError
from wattlayer.kriging import PLATEAU
from wattlayer.model import EnergyModel, checksum, models_folder
from wattlayer.residual import MODEL_FEATURES, Residual
from wattlayer.training import RECIPE, boost, learn

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
    table, names = cliffs.beside(new, NAMES)
    assert names == (*NAMES, PLATEAU)
    assert np.array_equal(table[:, :-1], new)
    assert ((table[:, -1] > 0.6) == slow(new)).mean() > 0.97
    edge = new[:4].copy()
    edge[:, [INTO, OUT_OF, DILATION]] = [[np.log2(93), 7, 1], [np.log2(101), 7, 1], [np.log2(101), 7, 2], [7, np.log2(215), 1]]
    assert list(cliffs.beside(edge, NAMES)[0][:, -1] > 0.6) == [False, True, False, False]


def test_rows_in_the_precision_of_trees_lie_on_the_same_plateaus(rows, cliffs):
    exact, single = (cliffs.beside(x, NAMES)[0] for x in (rows, rows.astype(np.float32)))
    assert single.dtype == np.float32
    assert np.array_equal(exact[:, -1].astype(np.float32), single[:, -1])


@pytest.mark.parametrize("step", [0.0, 0.5 * LEAST_STEP])
def test_what_is_smooth_or_steps_a_little_has_no_cliffs(rows, step):
    random = np.random.default_rng(2)
    assert find_cliffs(rows, NAMES, measured(rows, step) + 0.03 * random.standard_normal(len(rows)), seed=0) == NONE


def test_scatter_that_looks_like_steps_tells_nothing_of_layers_left_out(rows):
    assert find_cliffs(rows, NAMES, np.random.default_rng(3).standard_normal(len(rows)), seed=0) == NONE


@pytest.mark.parametrize("differs", ["run", "log2_scaffold_us"])
def test_repeats_of_one_shape_do_not_vouch_for_each_other(differs):
    """Campaigns measure the same layers: what is odd of each shape is odd again, and no cliff."""
    shapes = np.column_stack([drawn(100, seed=4), np.zeros(100)])
    odd = np.random.default_rng(5).standard_normal(100)
    rows = np.repeat(shapes, 8, axis=0)
    rows[:, MODEL_FEATURES.index(differs)] = np.arange(800) % 8
    assert find_cliffs(rows, MODEL_FEATURES, np.repeat(odd, 8), seed=0) == NONE


def test_one_shape_alone_has_no_cliffs():
    rows = np.repeat(drawn(1, seed=4), 2 * MIN_ROWS, axis=0)
    assert find_cliffs(rows, NAMES, np.random.default_rng(5).standard_normal(2 * MIN_ROWS), seed=0) == NONE


def test_other_groups_stay_where_they_are_and_few_rows_have_none(cliffs):
    other = drawn(20, seed=6, group=2.0)
    assert not cliffs.beside(other, NAMES)[0][:, -1].any()
    few = drawn(MIN_ROWS - 1, seed=7)
    assert find_cliffs(few, NAMES, measured(few, 1.2), seed=0) == NONE
    assert NONE.beside(few, NAMES)[0] is few


def test_both_learners_tell_layers_beside_a_cliff_better_for_it(rows):
    new = drawn(400, seed=8)

    def wrong(cliffs: bool) -> float:
        learned = learn(rows, measured(rows, 1.2), 0, replace(RECIPE, cliffs=cliffs))
        return float(np.abs(learned.ask(new.astype(np.float32), np.ones(400)) - measured(new, 1.2)).mean())

    assert wrong(True) < 0.6 * wrong(False)


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


@pytest.fixture(scope="module")
def learned(rows) -> Residual:
    return learn(rows[:400], measured(rows[:400], 1.2), 0, replace(RECIPE, rounds=20))


def test_learners_of_other_features_than_a_file_has_are_refused(learned):
    record = json.loads(json.dumps(learned.to_json()))
    assert Residual.from_json(record, NAMES).cliffs == learned.cliffs != NONE
    for spoilt in ({"cliffs": {}}, {"cliffs": {}, "neighbours": {}}):
        with pytest.raises(ValueError, match="trained on other features"):
            Residual.from_json(record | spoilt, NAMES)
    with pytest.raises(ValueError, match="trained on other features"):
        Residual.from_json(record, MODEL_FEATURES)
    along = {"1": [{"step": 1.0, "above": {}, "up_to": {"log2_physical_w": 7.0}}]}
    with pytest.raises(ValueError, match="trained on other features"):
        Residual.from_json(record | {"cliffs": along}, NAMES)
    bare = learn(drawn(30, seed=3), np.zeros(30), 0, replace(RECIPE, rounds=2))
    with pytest.raises(ValueError, match="trained on other features"):
        Residual.from_json(json.loads(json.dumps(bare.to_json())) | {"cliffs": record["cliffs"]}, NAMES)


@pytest.mark.parametrize(
    "spoilt", [{}, {"1": [{"step": 0.5, "above": [7], "up_to": {}}]}, {"1": [{"step": 10**400, "above": {}}]}]
)
def test_a_model_file_of_spoilt_cliffs_is_refused_in_one_line(tmp_path, spoilt):
    record = json.loads((models_folder() / "jetson-nano.json").read_text())
    del record["sha256"]
    record["time"]["cliffs"] = spoilt
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(record | {"sha256": checksum(record)}))
    with pytest.raises(InputError, match="not a wattlayer model that this version can use") as caught:
        EnergyModel.load(path)
    assert "\n" not in str(caught.value)


def test_trees_go_on_beside_the_cliffs_that_they_know(learned, rows):
    further = boost(*learned.cliffs.beside(rows, NAMES), np.zeros(len(rows)), 0, replace(RECIPE, rounds=2), learned.trees)
    assert further.num_features() == learned.trees.num_features() == len(NAMES) + 1


def test_many_at_once_lie_where_they_lie_one_by_one(cliffs):
    many = drawn(10_000, seed=11)
    together = cliffs.beside(many, NAMES)[0]
    assert np.array_equal(together[-50:], np.vstack([cliffs.beside(x[None], NAMES)[0] for x in many[-50:]]))


def test_a_plateau_without_bounds_is_everywhere():
    table, _ = Cliffs({"1": (Plateau(0.7),)}).beside(drawn(5, seed=9), NAMES)
    assert table[:, -1] == pytest.approx([0.7] * 5)
