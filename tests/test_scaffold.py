"""The scaffold: it finds the rates that made the data, extrapolates where trees cannot, and never rewards more work."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattlayer.features import Columns, featurise
from wattlayer.hardware import HARDWARE
from wattlayer.layer import Layer, Operand
from wattlayer.scaffold import MIN_LAYERS, START, TERMS, Scaffold, cells, groups, terms

A30 = HARDWARE["a30"]

TRUTH = {
    "*": (6.0, 0.7, 1.3, 0.001, 1.5, 0.4, 3.0),
    "cell:linear": (7.0, 0.7, 1.2, 0.001, 2.2, 0.5, 3.0),
    "cell:relu": (4.0, 0.5, 1.1, 0.001, 1.5, 0.4, 3.0),
}
"""Rates of a made-up device, not their logarithms; the last is p - 1."""


def op(name: str, *shape: int) -> Operand:
    return Operand(name, shape, "float32")


def relu(elements: int, kind: str = "relu") -> Layer:
    return Layer(kind, (op("self", elements),), (op("output", elements),))


def linear(m: int, n: int, k: int) -> Layer:
    return Layer("linear", (op("input", m, k), op("weight", n, k)), (op("output", m, n),))


def conv(batch: int, cin: int, cout: int, edge: int, kernel: int, **arguments: object) -> Layer:
    groups = int(str(arguments.get("groups", 1)))
    out = edge // 2 if arguments.get("stride") else edge
    return Layer(
        "conv2d", (op("input", batch, cin, edge, edge), op("weight", cout, cin // groups, kernel, kernel)),
        (op("output", batch, cout, out, out),), tuple(sorted(arguments.items())),  # type: ignore[arg-type]
    )  # fmt: skip


def draw(count: int, seed: int, scale: int = 1) -> list[Layer]:
    """ReLUs and linear layers up to a size, or `scale` times that."""
    rng = np.random.default_rng(seed)
    edges = np.exp2(rng.uniform(4, 10, (count, 3))).astype(int)
    lengths = np.exp2(rng.uniform(10, 23, count)).astype(int)
    return [
        linear(int(m) * scale, int(n), int(k)) if i % 2 else relu(int(e) * scale)
        for i, ((m, n, k), e) in enumerate(zip(edges, lengths))
    ]


def device(rates: dict[str, tuple[float, ...]]) -> Scaffold:
    return Scaffold({name: tuple(map(log, row)) for name, row in rates.items()})


def measure(layers: list[Layer], noise_frac: float = 0.02, seed: int = 0) -> np.ndarray:
    noise = np.exp(noise_frac * np.random.default_rng(seed).standard_normal(len(layers)))
    return device(TRUTH).time_s(layers, Columns(layers, A30)) * noise


def error(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.abs(found / truth - 1)


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    return draw(300, seed=1)


@pytest.fixture(scope="module")
def fitted(layers: list[Layer]) -> Scaffold:
    return Scaffold.fit(layers, Columns(layers, A30), measure(layers))


def test_the_rates_that_made_the_data_are_found(fitted):
    for cell, terms_that_bind in (("cell:relu", ("launch", "dram")), ("cell:linear", ("launch", "compute"))):
        for term in terms_that_bind:
            i = TERMS.index(term)
            assert np.exp(fitted.log_rates[cell][i]) == pytest.approx(TRUTH[cell][i], rel=0.06), (cell, term)


def test_new_layers_are_told_within_the_noise(fitted):
    new = draw(200, seed=2)
    assert np.quantile(error(fitted.time_s(new, Columns(new, A30)), measure(new, noise_frac=0)), 0.95) < 0.05


def test_ten_times_larger_layers_follow_the_law_but_not_a_tree(layers, fitted):
    import xgboost

    large = [x for x in draw(400, seed=3, scale=10) if x.flop > 2e9 or x.read_bytes > 5e7]
    columns, truth = Columns(large, A30), measure(large, noise_frac=0)
    assert len(large) > 40
    assert np.quantile(error(fitted.time_s(large, columns), truth), 0.9) < 0.05

    data = xgboost.DMatrix(featurise(Columns(layers, A30)), np.log(measure(layers)))
    tree = xgboost.train({"max_depth": 6, "learning_rate": 0.1, "nthread": 1, "seed": 0}, data, 200)
    inside = draw(100, seed=4)
    within = np.exp(tree.predict(xgboost.DMatrix(featurise(Columns(inside, A30)))))
    beyond = np.exp(tree.predict(xgboost.DMatrix(featurise(columns))))
    assert np.median(error(within, measure(inside, noise_frac=0))) < 0.1, "the tree is a fair foil where it was trained"
    assert np.median(error(beyond, truth)) > 0.3


def test_repeats_weigh_as_one_layer(layers):
    few, often = layers[:60], layers[:60] + [layers[1]] * 500
    time_s = measure(few)
    # the repeats are all ten times too slow, as if one layer had been measured on a busy board
    off = np.concatenate([time_s, np.full(500, 10 * time_s[1])])
    plain = Scaffold.fit(few, Columns(few, A30), time_s).time_s(few, Columns(few, A30))
    weighted = Scaffold.fit(often, Columns(often, A30), off).time_s(few, Columns(few, A30))
    assert np.median(error(weighted, plain)) < 0.03


def test_fitting_is_deterministic(layers, fitted):
    assert Scaffold.fit(layers, Columns(layers, A30), measure(layers)) == fitted


def test_an_unknown_cell_takes_its_group_then_everything():
    known = device({"*": TRUTH["*"], "group:elementwise": (50.0, *TRUTH["*"][1:]), "cell:relu": (500.0, *TRUTH["*"][1:])})
    small = [relu(8), relu(8, "silu"), relu(8, "clone"), relu(8, "mystery")]
    time_s = known.time_s(small, Columns(small, A30))
    assert time_s == pytest.approx([500e-6, 50e-6, 6e-6, 6e-6], rel=0.05)


def test_cells_with_few_layers_are_not_fitted():
    enough, few = [relu(1 << i) for i in range(4, 4 + MIN_LAYERS)], [relu(1 << i, "silu") for i in range(4, 3 + MIN_LAYERS)]
    both = enough + few * 3
    found = Scaffold.fit(both, Columns(both, A30), np.full(len(both), 5e-6)).log_rates
    assert set(found) == {"*", "group:elementwise", "cell:relu"}


def test_cells_and_groups_by_name():
    layers = [
        conv(2, 8, 8, 8, 1), conv(2, 8, 8, 8, 3, padding=(1, 1)), conv(2, 8, 8, 8, 3, stride=(2, 2)), conv(2, 8, 8, 8, 7),
        conv(2, 8, 8, 8, 3, groups=8), conv(2, 8, 8, 8, 1).with_tf32("conv"), linear(2, 8, 8).with_tf32("all"), relu(8),
    ]  # fmt: skip
    columns = Columns(layers, A30)
    assert cells(layers, columns) == [
        "conv2d/1x1", "conv2d/3x3", "conv2d/strided", "conv2d/kxk", "conv2d/grouped", "conv2d/1x1/tc", "linear", "relu",
    ]  # fmt: skip
    assert groups(layers, columns) == ["conv"] * 5 + ["conv/tc", "matmul", "elementwise"]
    turing = Columns(layers, HARDWARE["rtx2080ti"])
    assert cells(layers, turing)[5] == "conv2d/1x1"


def test_terms_by_hand():
    big, tiny, product = relu(1 << 28), relu(256), linear(65, 33, 9)
    values = dict(zip(TERMS, terms(Columns([big, tiny, product], A30)).T))
    assert values["launch"].tolist() == [1e-6] * 3
    assert values["dram"][0] == pytest.approx(2 * 4 * 2**28 / 933e9)
    assert values["l2"][0] < 1e-6 * values["dram"][0]
    assert values["l2"][1] == pytest.approx(2 * 4 * 256 / 933e9)
    assert values["rows"].tolist() == pytest.approx([2**28 * 1e-9, 256e-9, 0])
    assert values["compute"][2] == pytest.approx(2 * 96 * 64 * 16 / 10.3e12)
    assert values["tile"].tolist() == pytest.approx([0, 0, 2 * 32 * 32 * 9 * 56 / 10.3e12])


START_SCAFFOLD = Scaffold({"*": tuple(float(x) for x in START)})
sizes = st.integers(1, 1 << 13)
factors = st.floats(1.0, 64.0)


def no_less(small: Layer, large: Layer, hardware: str) -> None:
    assert large.flop >= small.flop and large.read_bytes >= small.read_bytes
    time_s = START_SCAFFOLD.time_s([small, large], Columns([small, large], HARDWARE[hardware]))
    assert time_s[1] >= time_s[0] * (1 - 1e-12)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(sizes, sizes, sizes, st.integers(0, 2), factors, st.sampled_from(list(HARDWARE)))
def test_a_larger_product_never_takes_less_time(m, n, k, axis, factor, hardware):
    grown = [int(x * factor) if i == axis else x for i, x in enumerate((m, n, k))]
    no_less(linear(m, n, k), linear(*grown), hardware)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.integers(1, 1 << 26), factors, st.sampled_from(list(HARDWARE)))
def test_more_bytes_never_take_less_time(elements, factor, hardware):
    no_less(relu(elements), relu(int(elements * factor)), hardware)


def test_more_bytes_never_take_less_time_whatever_the_rates():
    sharp = device({"*": (1.0, 1.2, 1.2, 1e-4, 1.5, 0.3, 30.0)})
    rising = [relu(int(2 ** (18 + i / 8))) for i in range(64)]
    assert (np.diff(sharp.time_s(rising, Columns(rising, A30))) >= 0).all()


def test_a_cell_measured_small_cannot_beat_the_device_on_large_layers():
    # launch-bound layers say nothing of the peak: the fit must not make one up
    small = [linear(2 * n, 32, k) for n in range(1, 9) for k in (8, 16, 32)]
    fitted = Scaffold.fit(small, Columns(small, A30), np.full(len(small), 20e-6))
    large = [linear(8192, 8192, 8192)]
    columns = Columns(large, A30)
    assert fitted.time_s(large, columns)[0] > 0.94 * columns.roofline_s()[0]


def test_only_algorithms_that_need_fewer_flop_may_beat_the_direct_convolution():
    def fastest(x: Layer) -> float:
        alike = [replace(x, inputs=(replace(x.inputs[0], name=f"copy {i}"), *x.inputs[1:])) for i in range(6)]
        columns = Columns(alike, A30)
        fitted = Scaffold.fit(alike, columns, 0.01 * columns.roofline_s())
        return float((fitted.time_s(alike, columns) / columns.roofline_s())[0])

    assert fastest(conv(32, 512, 28, 512, 1)) > 0.9
    assert 0.4 < fastest(conv(32, 512, 28, 512, 3, padding=(1, 1))) < 0.6


@pytest.mark.parametrize("hardware", HARDWARE)
def test_it_never_beats_the_data_sheet_by_much(hardware):
    layers = [relu(1 << 27), linear(8192, 8192, 8192)]
    columns = Columns(layers, HARDWARE[hardware])
    assert (START_SCAFFOLD.time_s(layers, columns) > columns.roofline_s() * 0.99).all()
