"""Neighbours: they interpolate what was measured, fall silent far away, find which directions matter, and survive as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import xgboost

from wattlayer.model.kriging import MAX_ROWS, MIN_ROWS, Kriging, krige
from wattlayer.model.residual import MODEL_FEATURES, Residual

NAMES = MODEL_FEATURES[:-1]
M, N, GROUP, KIND, RUN = (NAMES.index(x) for x in ("log2_m", "log2_n", "group_code", "kind_code", "run"))


def drawn(count: int, seed: int, group: float = 1.0) -> np.ndarray:
    """Rows of features that differ in m and n (octaves 5 to 12) and are alike in all else."""
    rows = np.zeros((count, len(NAMES)))
    rows[:, [M, N]] = np.random.default_rng(seed).uniform(5, 12, (count, 2))
    rows[:, GROUP] = group
    return rows


def wavy(rows: np.ndarray) -> np.ndarray:
    return 0.3 * np.sin(rows[:, M]) + (0.2 * (rows[:, KIND] == 3))


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return drawn(200, seed=0)


@pytest.fixture(scope="module")
def kriged(rows) -> Kriging:
    return krige(rows, NAMES, wavy(rows), seed=0)


def test_between_what_was_measured_neighbours_tell(kriged):
    new = drawn(100, seed=1)
    answer, known = kriged.ask(new, NAMES)
    assert known.all()
    assert np.median(np.abs(answer - wavy(new))) < 0.1 * np.median(np.abs(wavy(new)))


def test_directions_that_do_not_matter_are_long(kriged):
    found = dict(zip(kriged.groups["1"].features, kriged.groups["1"].lengths))
    assert set(found) == {"log2_m", "log2_n"}
    assert found["log2_n"] > 4 * found["log2_m"]


def test_far_from_everything_the_answer_is_nothing(kriged):
    far = drawn(10, seed=2)
    far[:, [M, N]] += 200.0
    assert np.abs(kriged.ask(far, NAMES)[0]).max() < 1e-6


def test_other_groups_and_few_rows_have_no_neighbours(kriged):
    answer, known = kriged.ask(drawn(5, seed=3, group=2.0), NAMES)
    assert not known.any() and not answer.any()
    few = drawn(MIN_ROWS - 1, seed=4)
    assert krige(few, NAMES, wavy(few), seed=0).groups == {}
    many = drawn(MAX_ROWS + 1, seed=4)
    assert krige(many, NAMES, wavy(many), seed=0).groups == {}


def test_kinds_of_one_group_are_told_apart():
    rows = drawn(200, seed=5)
    rows[::2, KIND] = 3.0
    kriged, new = krige(rows, NAMES, wavy(rows), seed=0), drawn(100, seed=6)
    other = new.copy()
    other[:, KIND] = 3.0
    difference = kriged.ask(other, NAMES)[0] - kriged.ask(new, NAMES)[0]
    assert np.median(difference) == pytest.approx(0.2, abs=0.03)


def test_one_wild_row_is_bounded(rows):
    wild = wavy(rows)
    wild[0] = 50.0
    kriged, new = krige(rows, NAMES, wild, seed=0), drawn(100, seed=1)
    assert np.median(np.abs(kriged.ask(new, NAMES)[0] - wavy(new))) < 0.1


def test_lengths_are_taken_from_a_model_of_more_rows(rows, kriged):
    part = krige(rows[::2], NAMES, wavy(rows[::2]), seed=0, like=kriged)
    assert part.groups["1"].lengths == kriged.groups["1"].lengths
    assert len(part.groups["1"].points) == 100


def test_a_campaign_may_be_new_to_the_lengths_that_are_taken():
    """Codes of campaigns follow how often they occur, which differs from part to part."""
    rows = drawn(90, seed=9)
    rows[:, RUN] = np.arange(90) % 3
    like = krige(rows[rows[:, RUN] < 2], NAMES, wavy(rows[rows[:, RUN] < 2]), seed=0)
    assert {f"run={i}" for i in range(3)} <= set(krige(rows, NAMES, wavy(rows), seed=0, like=like).groups["1"].features)


def test_many_at_once_are_told_as_one_by_one(kriged):
    many = drawn(6000, seed=7)
    together = kriged.ask(many, NAMES)[0]
    assert together[:50] == pytest.approx(np.concatenate([kriged.ask(x[None], NAMES)[0] for x in many[:50]]), abs=1e-9)


def test_it_is_the_same_after_json_and_refuses_what_does_not_fit(kriged):
    record = json.loads(json.dumps(asdict(kriged)["groups"]))
    assert Kriging.from_json(record) == kriged
    for spoilt, reason in (
        ({"features": ["log2_m", "colour"]}, "'colour', which is no feature"),
        ({"features": ["log2_m", "run="]}, "'run', which is no feature"),
        ({"features": ["log2_m"]}, "do not fit together"),
        ({"points": [[1.0]]}, "do not fit together"),
    ):
        with pytest.raises(ValueError, match=reason):
            Kriging.from_json({"1": record["1"] | spoilt})
    with pytest.raises(ValueError, match="Expected `object`"):
        Kriging.from_json([1, 2])  # type: ignore[arg-type]
    record["1"]["weights"].pop()
    with pytest.raises(ValueError, match="group 1 do not fit together"):
        Kriging.from_json(record)
    with pytest.raises((TypeError, ValueError)):
        Kriging.from_json({"1": {**record["1"], "points": [["a"]]}})


def test_near_both_learners_count_alike_and_far_the_trees_alone(rows, kriged):
    data = xgboost.DMatrix(np.zeros((2, len(NAMES))), np.full(2, 0.5))
    trees = xgboost.train({"base_score": 0.5, "nthread": 1}, data, 0)
    both, new = Residual(trees, kriged), drawn(3, seed=8).astype(np.float32)
    own = kriged.ask(new, NAMES)[0]
    assert both.ask(new, np.array([1.0, 0.5, 0.0])) == pytest.approx(0.5 + np.array([0.5, 0.25, 0.0]) * (own - 0.5))
    unknown = drawn(3, seed=8, group=4.0).astype(np.float32)
    assert both.ask(unknown, np.ones(3)) == pytest.approx([0.5] * 3)
