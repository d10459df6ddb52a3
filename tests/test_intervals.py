"""Intervals hold what they say, widen with distance, borrow between groups, and add up between two known limits."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from wattlayer.features.columns import Columns
from wattlayer.hardware import HARDWARE
from wattlayer.layer import Layer, Operand
from wattlayer.model.intervals import (
    ASSUMED_NEVER,
    CLASSES,
    EXTRAPOLATED_OCTAVES,
    LEVEL,
    PRIOR,
    STEPS_OCTAVES,
    Conformal,
    LeftOut,
    Where,
    conformal_quantile,
    correlation,
    effective_count,
    never_half_width,
    total_half_width,
)
from wattlayer.model.support import FAR_OCTAVES, NEVER_OCTAVES, Support, positions

A30 = HARDWARE["a30"]


def op(name: str, *shape: int, dtype: str = "float32") -> Operand:
    return Operand(name, shape, dtype)


def linear(m: int, n: int, k: int, dtype: str = "float32") -> Layer:
    return Layer("linear", (op("input", m, k, dtype=dtype), op("weight", n, k, dtype=dtype)), (op("output", m, n, dtype=dtype),))


def errors(count: int, seed: int, growth: float = 0.0, scale: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Log errors that grow by exp(growth) an octave, and their distances."""
    rng = np.random.default_rng(seed)
    distance = rng.choice([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, FAR_OCTAVES], count)
    return scale * rng.standard_t(4, count) * np.exp(growth * distance), distance


def at(distance: np.ndarray, beyond: float | np.ndarray = 0.0, time_s: float | np.ndarray = 0.0) -> Where:
    """Layers at `distance`, by default within the largest measured and short."""
    return Where(distance, *(np.broadcast_to(x, distance.shape) for x in (beyond, time_s)))


def left_out(
    error: np.ndarray, groups: list[str], distance: np.ndarray, layer: np.ndarray | None = None, row: np.ndarray | None = None
) -> LeftOut:  # fmt: skip
    """One reading of each row, and one row of each layer, where it is not said which."""
    every = np.arange(len(error))
    return LeftOut(error, np.array(groups), distance, every if row is None else row, every if layer is None else layer)


def fit(error: np.ndarray, groups: list[str], distance: np.ndarray, layer=None, row=None) -> Conformal:
    return Conformal.fit(left_out(error, groups, distance, layer, row), 0.0)


# --- coverage


@pytest.mark.parametrize("seed", range(5))
def test_nine_tenths_of_exchangeable_errors_are_covered(seed):
    error, distance = errors(4000, seed, growth=0.4)
    own = fit(error[:2000], ["conv"] * 2000, distance[:2000])
    covered = np.mean(np.abs(error[2000:]) <= own.half_width(own.quantile("conv"), at(distance[2000:])))
    sd = sqrt(LEVEL * (1 - LEVEL) * (1 / 2000 + 1 / 2000))
    assert abs(covered - LEVEL) < 4 * sd


def test_coverage_holds_in_every_class_of_distance():
    error, distance = errors(20_000, 7, growth=0.5)
    own = fit(error[:10_000], ["conv"] * 10_000, distance[:10_000])
    new = distance[10_000:]
    held = np.abs(error[10_000:]) <= own.half_width(own.quantile("conv"), at(new))
    for low, high in zip((-1.0, *STEPS_OCTAVES), STEPS_OCTAVES):
        assert abs(held[(new > low) & (new <= high)].mean() - LEVEL) < 0.025, high


def test_errors_that_do_not_grow_with_distance_are_not_widened():
    error, distance = errors(20_000, 3)
    assert max(fit(error, ["conv"] * 20_000, distance).widening) < 1.1


def test_what_lies_farther_is_never_told_more_closely():
    error, distance = errors(4000, 5, growth=-0.5)
    assert fit(error, ["conv"] * 4000, distance).widening == (1.0,) * len(STEPS_OCTAVES)


def test_where_no_layer_lies_in_a_measured_cell_the_nearest_class_stands_for_it():
    error, distance = errors(4000, 9, growth=0.5)
    far = distance > 1
    own = fit(error[far], ["conv"] * int(far.sum()), distance[far])
    assert own.widening[:3] == (1.0, 1.0, 1.0) and own.widening[3] > 1.3
    assert fit(error[:10], ["conv"] * 10, distance[:10]).widening == (1.0,) * len(STEPS_OCTAVES), "too few to part"


def test_groups_of_unlike_errors_are_each_covered():
    tight, wide = errors(1000, 1, scale=0.05)[0], errors(1000, 2, scale=0.5)[0]
    own = fit(np.concatenate([tight, wide]), ["conv"] * 1000 + ["norm"] * 1000, np.zeros(2000))
    for name, seed, scale in (("conv", 11, 0.05), ("norm", 12, 0.5)):
        new = errors(2000, seed, scale=scale)[0]
        assert abs(np.mean(np.abs(new) <= own.half_width(own.quantile(name), at(np.zeros(2000)))) - LEVEL) < 0.04


# --- widths


def test_widths_grow_by_the_factor_of_their_class():
    own = Conformal({"*": 0.2, "conv": 0.1}, (1.0, 1.5, 2.0, 4.0, 5.0), 0.9, 0.5)
    asked = np.array([0.0, 0.5, 1.0, sqrt(2), 2.0, 2.5, sqrt(15.75), FAR_OCTAVES, NEVER_OCTAVES])
    assert own.half_width(own.quantile("conv"), at(asked)) == pytest.approx([0.1, 0.15, 0.15, 0.2, 0.2, 0.4, 0.4, 0.5, 0.9])
    assert own.half_width(own.quantile("never seen"), at(np.array([0.0]))).tolist() == [0.2]


def test_kinds_left_out_whole_do_not_widen_what_is_far():
    error, distance = errors(4000, 6)
    distances = np.append(distance, [NEVER_OCTAVES] * 1000)
    own = Conformal.fit(left_out(np.append(error, [5.0] * 1000), ["conv"] * 5000, distances), 0.0, 2.5)
    assert own.widening == fit(error, ["conv"] * 4000, distance).widening and own.never == 2.5


def test_kinds_left_out_whole_tell_of_kinds_never_measured():
    kinds = [np.full(50, 0.1 * i) for i in range(1, 11)]
    assert never_half_width(kinds) == pytest.approx(1.0), "nine of ten kinds lie within 0.9: the next above"
    assert never_half_width([*kinds, *kinds]) == pytest.approx(1.0)
    assert never_half_width([*kinds, *[np.full(50, 0.2)] * 20]) == pytest.approx(0.8)
    assert never_half_width(kinds[:8]) == ASSUMED_NEVER, "too few kinds to tell, and none of them farther off than a factor of 4"
    assert never_half_width([*kinds[:3], np.full(5, 2.0)]) == 2.0
    assert never_half_width([]) == ASSUMED_NEVER


def test_a_group_with_nothing_near_takes_what_lies_farther_scaled_back():
    conv, norm = np.full(200, 0.1), np.full(100, 0.5)
    own = fit(
        np.concatenate([conv, 2 * conv, 2 * norm]), ["conv"] * 400 + ["norm"] * 100, np.repeat([0.0, 1.0, 1.0], [200, 200, 100])
    )
    # of the 300 next to a cell nine tenths are within ten times the quantile of cells, 200 of them within twice
    step = own.widening[1]
    assert step == pytest.approx(10 ** (300 / 320))
    share = 100 / (100 + PRIOR)
    assert own.quantiles["norm"] == pytest.approx(share * 1.0 / step + (1 - share) * 0.1, rel=0.05)
    assert own.quantiles["conv"] == pytest.approx(0.1)


def test_groups_with_nothing_near_come_in_one_order():
    """Sets of names have another order in every process, and model files are compared byte by byte."""
    error, distance = errors(800, 7)
    names = ["near"] * 400 + [f"far {i % 8}" for i in range(400)]
    distance[:400], distance[400:] = 0.0, 3.0
    assert list(fit(error, names, distance).quantiles) == ["*", "near", *(f"far {i}" for i in range(8))]


def test_a_small_group_is_drawn_towards_all_groups():
    many, few = np.full(1000, 0.1), np.full(5, 0.5)
    own = fit(np.concatenate([many, few]), ["conv"] * 1000 + ["norm"] * 5, np.zeros(1005))
    assert own.quantiles["*"] == pytest.approx(0.1)
    assert own.quantiles["conv"] == pytest.approx(0.1)
    assert own.quantiles["norm"] == pytest.approx((5 * 0.5 + 20 * 0.1) / 25)
    large = fit(np.concatenate([many, np.full(2000, 0.5)]), ["conv"] * 1000 + ["norm"] * 2000, np.zeros(3000))
    assert large.quantiles["norm"] == pytest.approx(0.5, rel=0.02)


def test_the_quantile_is_that_of_a_finite_sample():
    assert conformal_quantile(np.arange(1.0, 10.0)) == 9  # rank ceil(10 · 0.9)
    assert conformal_quantile(np.arange(1.0, 20.0)) == 18
    assert conformal_quantile(np.arange(1.0, 21.0)) == 19, "18 without the one more"
    assert conformal_quantile(np.array([3.0, 1.0, 2.0])) == 3, "too few to say: the largest"


def test_few_rows_of_another_device_are_not_widened_for_their_distance_twice():
    """Every error is what the distance makes of 0.1, where the first device told by what factors errors grow."""
    first = Conformal({"*": 0.3, "conv": 0.2}, (1.0, 2.0, 3.0, 4.0, 5.0), 1.5, 0.1, (2.0,) * CLASSES, 1.0)
    distance = np.repeat([0.0, 1.0, 2.0, 3.0, NEVER_OCTAVES], 30)
    error = np.repeat([0.1, 0.2, -0.3, 0.4, 9.0], 30)
    own = first.moved(left_out(error, ["conv"] * 150, distance), 0.25)
    assert own.quantiles == pytest.approx({"*": 0.1, "conv": 0.1}), "and kinds measured nowhere else tell nothing"
    assert (own.widening, own.never, own.correlation) == (first.widening, 1.5, 0.25)
    assert set(own.factors) == {1.0}, "classes of layers are of the first device"
    alone = first.moved(left_out(error[-30:], ["conv"] * 30, distance[-30:]), 0.25)
    assert alone.quantiles["*"] == pytest.approx(9.0 / 5.0), "where nothing else is known, they do"


# --- layers that were read often


def measured(layers: int, rows: int | np.ndarray, readings: int | np.ndarray, seed: int) -> LeftOut:
    """Layers that were measured in so many `rows` each, of so many `readings` each, nearly alike for one layer."""
    rng = np.random.default_rng(seed)
    layer = np.repeat(np.arange(layers), rows)
    row = np.repeat(np.arange(len(layer)), readings)
    error = 0.1 * rng.standard_normal(layers)[layer[row]] + 0.001 * rng.standard_normal(len(row))
    return left_out(error, ["conv"] * len(row), np.zeros(len(row)), layer[row], row)


def test_rows_count_as_many_layers_as_they_would_be_of_if_all_were_measured_as_often():
    assert effective_count(np.arange(7)) == effective_count(np.repeat(np.arange(7), 40)) == 7
    assert effective_count(np.array(["a", "a", "a", "b"])) == pytest.approx(16 / 10)
    assert effective_count(np.array([], int)) == 0
    assert effective_count(np.array([0, 0, 0, 1]), np.array([0.5, 0.25, 0.25, 1.0])) == 2


def test_readings_of_a_row_share_its_vote():
    assert measured(3, 1, np.array([1, 4, 2]), 0).votes.tolist() == [1.0, *[0.25] * 4, 0.5, 0.5]
    one_often = measured(100, 1, np.where(np.arange(100) == 50, 101, 1), 0)
    assert one_often.count == pytest.approx(100), "a hundred layers, whichever of them was read again and again"
    scores = np.append(np.arange(1.0, 51.0), [*[51.0] * 101, *np.arange(52.0, 101.0)])
    assert one_often.quantile(scores) == 91.0, "rank 90.9 of 100"
    thirds = measured(19, 1, 3, 0)
    assert thirds.quantile(np.repeat(np.arange(1.0, 20.0), 3)) == 18.0, "rank 18 of 19, though sums of thirds miss it by a hair"


def test_layers_measured_often_are_as_few_as_they_are():
    scores = np.random.default_rng(3).exponential(size=30)
    once = conformal_quantile(scores)
    assert once == np.sort(scores)[27], "rank 27.9 of 30"
    assert measured(30, 20, 1, 0).quantile(np.repeat(scores, 20)) == once
    assert measured(15, 20, 1, 0).quantile(np.repeat(np.arange(1.0, 16.0), 20)) == 15, "rank 14.4 of 15"
    assert conformal_quantile(np.repeat(np.arange(1.0, 16.0), 20)) == 14, "of three hundred layers"
    # 41 rows of 2 layers are 41² / (40² + 1), 1.05 in effect: another may be in as many rows as these, and nothing tells of it
    two = measured(2, np.array([40, 1]), 1, 0)
    assert two.count == pytest.approx(1.05, abs=0.001) and two.quantile(np.array([*[0.1] * 40, 0.7])) == 0.7


@pytest.mark.parametrize(
    ("rows", "readings"), [(1, 1), (20, 1), (1, 20), (1, np.arange(1, 61, 4))], ids=["once", "rows", "readings", "unlike"]
)
def test_new_layers_are_covered_however_often_the_known_ones_were_measured(rows, readings):
    """Fifteen layers are too few to leave any out; measured twenty times each and taken for three hundred, rank 14 would do."""
    held = []
    for seed in range(200):
        known, new = measured(15, rows, readings, seed), measured(500, 1, 1, 1000 + seed)
        own = Conformal.fit(known, 0.0)
        held.append(np.mean(np.abs(new.error) <= own.half_width(own.quantile("conv"), at(new.distance_octaves))))
    assert np.mean(held) == pytest.approx(15 / 16, abs=0.015)


def test_easy_layers_that_were_read_often_do_not_speak_for_hard_ones():
    """Thirty layers read twenty times, a hundred that err ten times as much read once: most new layers are of these."""
    scale, readings, held = np.append(np.full(30, 0.01), np.full(100, 0.1)), np.append(np.full(30, 20), np.full(100, 1)), []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        row = np.repeat(np.arange(130), readings)
        known = left_out((scale * rng.standard_normal(130))[row], ["conv"] * len(row), np.zeros(len(row)), row, row)
        new = rng.choice(scale, 500) * rng.standard_normal(500)
        held.append(np.mean(np.abs(new) <= Conformal.fit(known, 0.0).quantile("conv")))
    assert np.mean(held) == pytest.approx(LEVEL, abs=0.015)


def test_groups_and_classes_with_few_layers_borrow_though_these_were_measured_often():
    few, many = (left_out(np.full(n, 0.4), ["conv"] * n, np.zeros(n), np.arange(n) % 5) for n in (5, 500))
    own = Conformal({"*": 0.1}, (1.0,) * len(STEPS_OCTAVES), 0.9, 0.5)
    parted = [own.parted(x, at(x.distance_octaves), 2.0) for x in (few, many)]
    assert parted[0] == parted[1] and parted[0].factors[0] == pytest.approx(4 ** (5 / 25))
    error, names = np.repeat([0.1, 0.5], [10_000, 500]), ["conv"] * 10_000 + ["norm"] * 500
    own = fit(error, names, np.zeros(10_500), np.append(np.arange(10_000) % 100, 100 + np.arange(500) % 5))
    assert own.quantiles["norm"] == pytest.approx((5 * 0.5 + 20 * 0.1) / 25), "five layers, as if each had been read once"


def test_a_group_of_few_layers_near_takes_what_lies_farther_though_these_were_read_often():
    """Of a norm ten layers in measured cells, with a hundred readings each, and ten next to one: enough together."""
    error = np.repeat([0.1, 0.2, 0.1, 0.6], [400, 400, 1000, 10])
    names, distance = ["conv"] * 800 + ["norm"] * 1010, np.repeat([0.0, 1.0, 0.0, 1.0], [400, 400, 1000, 10])
    layer = np.concatenate([np.arange(800), 800 + np.arange(1000) % 10, 810 + np.arange(10)])
    own = fit(error, names, distance, layer, layer)
    step = own.widening[1]
    assert step == pytest.approx(2 ** (410 / 430)) and own.quantiles["conv"] == pytest.approx(0.1)
    assert own.quantiles["norm"] == pytest.approx((0.6 / step + 0.2 / step) / 2), "rank 19 of 20 layers, and what all have"


@pytest.mark.parametrize("each", [1, 3, 6, 10, 49])
def test_twenty_layers_are_not_few_however_often_each_was_read(each):
    """Votes of thirds, sixths and so on sum to one but for a hair."""
    row = np.append(np.repeat(np.arange(20), each), 20 + np.arange(100))
    near = len(row) - 100
    own = fit(np.repeat([0.1, 0.3], [near, 100]), ["conv"] * len(row), np.repeat([0.0, 1.0], [near, 100]), row, row)
    assert own.quantiles["*"] == pytest.approx(0.1) and own.widening[1] > 2
    assert own.quantiles == pytest.approx({"*": 0.1, "conv": 0.1})


def test_a_class_of_distance_with_few_layers_does_not_stand_for_what_is_near():
    """Nineteen layers in measured cells are too few to part, however often they were read."""
    error, layer = np.full(600, 0.1), np.append(np.arange(500) % 19, 19 + np.arange(100))
    distance = np.repeat([0.0, 1.0], [500, 100])
    error[distance > 0] = 0.3
    own = fit(error, ["conv"] * 600, distance, layer, layer)
    assert own.widening == (1.0,) * len(STEPS_OCTAVES) and own.quantiles["*"] == pytest.approx(0.3)
    one_more = np.append(np.arange(500) % 20, 20 + np.arange(100))
    own = fit(error, ["conv"] * 600, distance, one_more, one_more)
    assert own.widening[1] > 2 and own.quantiles["*"] == pytest.approx(0.1)


# --- classes of layers

NEAR, FAR = 1.0, 3.0
EIGHT = [(d, beyond, time_s) for d in (NEAR, FAR) for beyond in (0.0, 1.0) for time_s in (1.0, 3.0)]
"""One layer of each class in the order of factors, 2 s being long."""


def test_each_class_has_a_factor_of_its_own():
    own = Conformal({"*": 0.1}, (1.0,) * len(STEPS_OCTAVES), 0.9, 0.5, tuple(range(1, CLASSES + 1)), long_s=2.0)
    asked = Where(*np.array(EIGHT).T)
    assert own.half_width(0.1, asked) == pytest.approx([0.1 * i for i in range(1, 9)])
    assert own.half_width(0.1, at(np.array([EXTRAPOLATED_OCTAVES, FAR_OCTAVES, NEVER_OCTAVES]))) == pytest.approx([0.1, 0.5, 0.9])


def classes(count: int, seed: int) -> tuple[np.ndarray, Where, np.ndarray]:
    """Log errors as large as the number of their class, where they lie, and that number."""
    rng = np.random.default_rng(seed)
    code = rng.integers(CLASSES, size=count)
    return 0.1 * (code + 1) * rng.standard_t(4, count), Where(*np.array(EIGHT)[code].T), code


def test_every_class_of_layers_is_covered_once_parted():
    error, where, _ = classes(20_000, 3)
    before = fit(error, ["conv"] * 20_000, where.distance_octaves)
    own = before.parted(left_out(error, ["conv"] * 20_000, where.distance_octaves), where, long_s=2.0)
    new, there, code = classes(20_000, 4)
    held = np.abs(new) <= own.half_width(own.quantile("conv"), there)
    assert [abs(held[code == i].mean() - LEVEL) < 0.03 for i in range(CLASSES)] == [True] * CLASSES
    held = np.abs(new) <= before.half_width(before.quantile("conv"), there)
    assert held[code == 0].mean() > 0.97 and held[code == 3].mean() < 0.87, "distance alone does not tell them apart"


def test_parting_forgets_what_was_parted_before_and_what_was_never_measured():
    error, where, _ = classes(4000, 5)
    names = ["conv"] * 4000
    own = fit(error, names, where.distance_octaves)
    once = own.parted(left_out(error, names, where.distance_octaves), where, long_s=2.0)
    assert once.parted(left_out(error, names, where.distance_octaves), where, long_s=2.0) == once
    unknown = Where(*(np.append(x, y) for x, y in ((where.distance_octaves, NEVER_OCTAVES), (where.beyond_octaves, 8.0),
                                                    (where.time_s, 1.0))))  # fmt: skip
    more = left_out(np.append(error, 9.0), [*names, "conv"], unknown.distance_octaves)
    assert own.parted(more, unknown, long_s=2.0) == once


def test_classes_with_few_errors_are_drawn_to_what_distance_says():
    own = Conformal({"*": 0.1}, (1.0,) * len(STEPS_OCTAVES), 0.9, 0.5)
    alike = (left_out(np.full(n, 0.4), ["conv"] * n, np.zeros(n)) for n in (5, 2000))
    few, many = (own.parted(x, at(x.distance_octaves), long_s=2.0).factors for x in alike)
    assert few == pytest.approx([4 ** (5 / (5 + PRIOR))] + [1.0] * (CLASSES - 1))
    assert many[0] == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize(
    "wrong",
    [{"quantiles": {"conv": 0.1}}, {"widening": (1.0, 2.0)}, {"factors": (1.0,)}],
    ids=["no quantile of all", "steps", "classes"],
)
def test_intervals_that_miss_a_class_are_refused(wrong):
    with pytest.raises(ValueError, match=r"intervals need a quantile for '\*', 5 steps and 8 factors"):
        Conformal(**{"quantiles": {"*": 0.1}, "widening": (1.0,) * 5, "never": 0.9, "correlation": 0.5, **wrong})


# --- distance


def test_what_was_measured_is_at_distance_zero():
    layers = [linear(64, 64, 64), linear(256, 512, 1024)]
    columns = Columns(layers, A30)
    assert Support.of(columns).distance_octaves(columns).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("layer", "octaves"),
    [
        (linear(128, 64, 64), 1.0),
        (linear(128, 128, 64), sqrt(2)),
        (linear(64, 64, 256), 2.0),
        (linear(70, 64, 64), 0.0),
        (linear(64, 64, 65536), FAR_OCTAVES),
        (linear(64, 64, 64, dtype="float16"), NEVER_OCTAVES),
        (linear(64, 64, 64).with_tf32("all"), NEVER_OCTAVES),
        (Layer("relu", (op("self", 64, 64),), (op("output", 64, 64),)), NEVER_OCTAVES),
    ],
    ids=["twice m", "twice m and n", "four times k", "same cell", "far", "float16", "tensor cores", "another kind"],
)
def test_distances_by_hand(layer, octaves):
    measured = [linear(64, 64, 64)]
    support = Support.of(Columns(measured, A30))
    assert support.distance_octaves(Columns([layer], A30)) == pytest.approx([octaves])


@pytest.mark.parametrize(
    ("layer", "octaves"),
    [
        (linear(64, 64, 64), 0.0),
        (linear(32, 64, 64), 0.0),
        (linear(1, 4096, 64), 0.0),
        (linear(128, 64, 64), 1.0),
        (linear(128, 128, 64), 2.0),
        (linear(16, 64, 4096), 4.0),
        (linear(1 << 20, 64, 64), NEVER_OCTAVES),
        (linear(16, 16, 16, dtype="float16"), 0.0),
        (linear(128, 64, 64, dtype="bfloat16"), 1.0),
        (Layer("relu", (op("self", 2, 2),), (op("output", 2, 2),)), NEVER_OCTAVES),
    ],
    ids=[
        "measured",
        "smaller",
        "far, not larger",
        "twice m",
        "four times",
        "four times m and k",
        "at most",
        "float16, not larger than in float32",
        "larger in bfloat16",
        "another kind",
    ],
)
def test_how_much_larger_than_the_largest_by_hand(layer, octaves):
    support = Support.of(Columns([linear(64, 64, 64), linear(8, 8, 8)], A30))
    assert support.beyond_octaves(Columns([layer], A30)) == pytest.approx([octaves])


def test_the_largest_in_its_own_number_format_counts_where_there_is_one():
    support = Support.of(Columns([linear(64, 64, 64), linear(8, 8, 8, dtype="float16")], A30))
    asked = Columns([linear(16, 8, 8, dtype=dtype) for dtype in ("float32", "float16", "bfloat16", "float64")], A30)
    assert support.beyond_octaves(asked).tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("device", "octaves"), [("a30", 0.0), ("gtx1080ti", 0.0), ("rtx2080ti", NEVER_OCTAVES), ("jetson-nano", NEVER_OCTAVES)]
)
def test_both_halves_are_one_where_both_run_at_one_rate(device, octaves):
    """Turing's tensor cores and Maxwell's lanes take float16 alone."""
    half, brain = (Columns([linear(64, 64, 64, dtype=dtype)], HARDWARE[device]) for dtype in ("float16", "bfloat16"))
    assert Support.of(half).distance_octaves(brain).tolist() == [octaves]
    assert Support.of(brain).distance_octaves(half).tolist() == [octaves]


def test_the_nearest_of_many_counts_and_chunks_agree():
    measured = [linear(1 << i, 64, 64) for i in range(4, 10)]
    support = Support.of(Columns(measured, A30))
    new = [linear(1 << (4 + i % 8), 128, 64) for i in range(5000)]
    distance = support.distance_octaves(Columns(new, A30))
    assert distance.tolist() == pytest.approx([1.0 if i % 8 < 6 else sqrt(1 + (i % 8 - 5) ** 2) for i in range(5000)])


def test_cells_are_half_octaves_and_far_means_extrapolated():
    columns = Columns([linear(100, 64, 1)], A30)
    assert positions(columns)[0].tolist() == [0, 6.5, 6, 0, 0, 0, 0]
    assert EXTRAPOLATED_OCTAVES < FAR_OCTAVES


# --- correlation and totals


def test_correlation_of_known_cases():
    rng = np.random.default_rng(0)
    blocks = np.repeat(np.arange(40), 25)
    shared = np.repeat(rng.standard_normal(40), 25)
    own = rng.standard_normal(1000)
    assert correlation(shared, blocks) == pytest.approx(1.0)
    assert correlation(own, blocks) < 0.05
    assert correlation(shared + own, blocks) == pytest.approx(0.5, abs=0.15)
    assert correlation(np.tile([1.0, -1.0], 20), np.repeat(np.arange(20), 2)) == 0.0


def test_layers_are_alike_that_were_left_out_together_and_are_of_one_group():
    """Two groups in every block err each to their own side: blocks alone show nothing of it."""
    rng = np.random.default_rng(0)
    blocks, groups = np.repeat(np.arange(20), 40), np.tile(["conv", "norm"], 400)
    side = {(b, g): x for b in range(20) for g, x in zip(("conv", "norm"), rng.standard_normal(2))}
    error = np.array([side[b, g] for b, g in zip(blocks, groups)]) + rng.standard_normal(800)
    assert correlation(error, blocks, groups) == pytest.approx(0.5, abs=0.15)
    assert correlation(error, blocks) < correlation(error, blocks, groups) - 0.1


def test_classes_of_very_unequal_size_do_not_make_errors_look_alike():
    """Means of two layers scatter more than those of two hundred, whatever they have in common."""
    rng = np.random.default_rng(0)
    blocks = np.concatenate([np.repeat(np.arange(5), 200), np.repeat(np.arange(5, 105), 2)])
    told = [correlation(rng.standard_normal(1200), blocks) for _ in range(20)]
    assert np.mean(told) < 0.02
    shared = [correlation(rng.standard_normal(105)[blocks] + rng.standard_normal(1200), blocks) for _ in range(20)]
    assert np.mean(shared) == pytest.approx(0.5, abs=0.1)


def test_what_rows_of_one_layer_have_in_common_is_its_own():
    """Layers that have nothing in common, in one row each or in four, and then half of it."""
    rng = np.random.default_rng(0)
    layer = np.repeat(np.arange(600), 4)
    blocks = np.arange(600)[layer] % 30
    told = [correlation(rng.standard_normal(600)[layer], blocks, layer=layer) for _ in range(20)]
    assert np.mean(told) < 0.03
    rows = [correlation(rng.standard_normal(600)[layer], blocks) for _ in range(20)]
    assert np.mean(rows) > 0.03, "taken for layers of their own"
    shared = [correlation((rng.standard_normal(30)[np.arange(600) % 30] + rng.standard_normal(600))[layer], blocks, layer=layer)
              for _ in range(20)]  # fmt: skip
    assert np.mean(shared) == pytest.approx(0.5, abs=0.05)
    assert correlation(np.arange(8.0), np.repeat([0, 1], 4), layer=np.repeat([0, 1], 4)) == 1.0, "two layers tell nothing"


def test_correlation_is_taken_as_full_where_nothing_can_be_said():
    assert correlation(np.ones(5), np.zeros(5, int)) == 1.0
    assert correlation(np.ones(5), np.arange(5)) == 1.0


@pytest.mark.parametrize(
    ("shared", "expected"),
    [(0.0, sqrt(0.03**2 + 0.08**2)), (1.0, 0.11), (0.5, sqrt((0.03**2 + 0.08**2 + 0.11**2) / 2))],
)
def test_totals_lie_between_quadrature_and_full_addition(shared, expected):
    width = total_half_width(np.array([3.0, 7.0]), np.array([0.1, 0.8 / 7]), shared)
    assert width == pytest.approx(expected)


def test_a_hundred_independent_layers_know_their_sum_ten_times_better():
    energy, width = np.ones(100), np.full(100, 0.2)
    assert total_half_width(energy, width, 0.0) == pytest.approx(0.02)
    assert total_half_width(energy, width, 1.0) == pytest.approx(0.2)
    assert total_half_width(np.array([5.0]), np.array([0.2]), 0.3) == pytest.approx(0.2)
    assert total_half_width(np.zeros(3), width[:3], 0.3) == 0.0
