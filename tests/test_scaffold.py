"""The scaffold: it finds the rates that made the data, extrapolates where trees cannot, and never rewards more work."""

from __future__ import annotations

from dataclasses import replace
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattlayer.features import featurise
from wattlayer.features.columns import Columns
from wattlayer.features.dimensions import _touched
from wattlayer.hardware import HARDWARE
from wattlayer.layer import Layer, Operand
from wattlayer.model.cells import cells, group_of_cell, groups
from wattlayer.model.roofline import BLOCKS, NEVER_S, RATES, START, TABLE, law, terms
from wattlayer.model.scaffold import MIN_LAYERS, Scaffold

A30 = HARDWARE["a30"]


def rates(**changed: float) -> tuple[float, ...]:
    """Rates, not their logarithms: where fitting starts, but for those that are given."""
    return tuple((TABLE_START | changed).values())


def log_rates(**changed: float) -> tuple[float, ...]:
    return tuple(map(log, rates(**changed)))


TABLE_START = {name: rate.start for name, rate in TABLE.items()}
TILES = ("tile_128x128", "tile_128x64", "tile_64x64", "tile_smallest")
TRUTH = {
    "*": rates(host=6.0),
    "cell:linear": rates(host=7.0, latency=2.0, dram=1.1, **dict.fromkeys(TILES, 2.2), split=3.0),
    "cell:relu": rates(host=4.0, latency=2.0, l2=0.5, dram=1.1),
}
"""Rates of a made-up device."""


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


def in_dtype(layer: Layer, dtype: str) -> Layer:
    return replace(layer, inputs=tuple(replace(x, dtype=dtype) for x in layer.inputs))


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
    return device(TRUTH).time_s(Columns(layers, A30)) * noise


def error(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.abs(found / truth - 1)


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    return draw(300, seed=1)


@pytest.fixture(scope="module")
def fitted(layers: list[Layer]) -> Scaffold:
    return Scaffold.fit(layers, Columns(layers, A30), measure(layers))


def test_the_rates_that_made_the_data_are_found(fitted):
    for cell, rates_that_bind in (("cell:relu", ("host", "dram")), ("cell:linear", ("host",))):
        for name in rates_that_bind:
            i = RATES.index(name)
            assert np.exp(fitted.log_rates[cell][i]) == pytest.approx(TRUTH[cell][i], rel=0.06), (cell, name)


def test_new_layers_are_told_within_the_noise(fitted):
    new = draw(200, seed=2)
    assert np.quantile(error(fitted.time_s(Columns(new, A30)), measure(new, noise_frac=0)), 0.95) < 0.05


def test_ten_times_larger_layers_follow_the_law_but_not_a_tree(layers, fitted):
    import xgboost

    large = [x for x in draw(400, seed=3, scale=10) if x.flop > 2e9 or x.read_bytes > 5e7]
    columns, truth = Columns(large, A30), measure(large, noise_frac=0)
    assert len(large) > 40
    assert np.quantile(error(fitted.time_s(columns), truth), 0.9) < 0.05

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
    plain = Scaffold.fit(few, Columns(few, A30), time_s).time_s(Columns(few, A30))
    weighted = Scaffold.fit(often, Columns(often, A30), off).time_s(Columns(few, A30))
    assert np.median(error(weighted, plain)) < 0.03


def test_fitting_is_deterministic(layers, fitted):
    assert Scaffold.fit(layers, Columns(layers, A30), measure(layers)) == fitted


def test_an_unknown_cell_takes_its_group_then_everything():
    known = device({"*": rates(host=6), "group:elementwise": rates(host=50), "cell:relu": rates(host=500)})
    small = [relu(8), relu(8, "silu"), relu(8, "clone"), relu(8, "mystery")]
    time_s = known.time_s(Columns(small, A30))
    assert time_s == pytest.approx([500e-6, 50e-6, 6e-6, 6e-6], rel=0.05)


def test_cells_with_few_layers_are_not_fitted():
    enough, few = [relu(1 << i) for i in range(4, 4 + MIN_LAYERS)], [relu(1 << i, "silu") for i in range(4, 3 + MIN_LAYERS)]
    both = enough + few * 3
    found = Scaffold.fit(both, Columns(both, A30), np.full(len(both), 5e-6)).log_rates
    assert set(found) == {"*", "group:elementwise", "cell:relu"}


def test_a_kind_left_out_is_told_by_the_rest_of_its_group():
    slow, quick = [relu(1 << i) for i in range(4, 24)], [relu(1 << i, "silu") for i in range(4, 24)]
    products = [linear(1 << i, 64, 64) for i in range(4, 12)]
    layers = slow + quick + products
    columns = Columns(layers, A30)
    time_s = np.repeat([40e-6, 10e-6, 20e-6], [20, 20, 8])
    whole = Scaffold.fit(layers, columns, time_s)
    small = Columns([relu(8)], A30)
    assert whole.time_s(small) == pytest.approx([40e-6], rel=0.1)
    without = whole.without("relu", layers, columns, time_s)
    assert without.time_s(small) == pytest.approx([10e-6], rel=0.1), "as the other kind of its group"
    assert set(without.log_rates) == {"*", "group:elementwise", "group:matmul"}
    alone = whole.without("linear", layers, columns, time_s)
    assert set(alone.log_rates) == {"*", "group:elementwise"}, "nothing else is a product: what all layers share is left"


def logs(table: dict[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    return {name: tuple(float(x) for x in np.log(row)) for name, row in table.items()}


def test_other_devices_teach_groups_that_were_not_measured_and_no_others():
    known = {"elementwise": 1.5, "pooling": 2.5, "embedding": 2.0}
    own = {"*": rates(host=2.0)} | {f"group:{name}": rates(latency=x) for name, x in known.items()}
    law = {
        "*": rates(host=40.0), "group:elementwise": rates(dram=1.1), "cell:relu": rates(dram=1.15),
        "group:matmul": rates(host=30.0, latency=9.0, dram=1.2), "cell:linear": rates(host=30.0, latency=9.0, dram=1.3),
        "group:matmul/half": rates(dram=1.4), "group:norm/eval": rates(dram=1.45),
    }  # fmt: skip
    found = Scaffold(logs(own)).taught(logs(law))
    new = {"group:matmul": 1.2, "cell:linear": 1.3, "group:matmul/half": 1.4}
    assert set(found.log_rates) == {*own, *new}, "batch norm in eval mode takes the rates of element-wise kinds"
    for name, dram in new.items():
        expected = rates(host=2.0, latency=2.0, dram=dram)  # its own host, and what its groups take in the middle
        assert np.exp(found.log_rates[name]) == pytest.approx(expected), name
    for name in known:
        assert np.exp(found.log_rates[f"group:{name}"]) == pytest.approx(own[f"group:{name}"]), name


def test_what_nobody_measured_takes_the_middle_of_the_groups_that_tell_of_a_rate():
    own = {
        "*": rates(host=2.0), "group:elementwise": rates(host=7.0, vector=900.0), "group:softmax": rates(vector=600.0, dram=1.21),
        "group:matmul": rates(vector=100.0, tile_64x64=25.0), "group:matmul/half": rates(tile_64x64=30.0),
    }  # fmt: skip
    found = Scaffold(logs(own)).taught({})
    assert set(found.log_rates) == set(own)
    expected = rates(host=2.0, vector=600.0)  # dram hardly moved, and products alone tell of tiles
    assert np.exp(found.log_rates["*"]) == pytest.approx(expected)
    assert Scaffold(found.log_rates).taught({}).log_rates == found.log_rates


def test_a_kind_left_out_says_nothing_of_what_is_left():
    """What all groups together had shown, it among them, is forgotten but for the host."""
    columns = Columns(layers := [relu(1 << i) for i in range(4, 24)] + [linear(1 << i, 64, 64) for i in range(4, 12)], A30)
    time_s = np.repeat([40e-6, 20e-6], [20, 8])
    fitted = Scaffold.fit(layers, columns, time_s)
    whole = Scaffold({**fitted.log_rates, **logs({"*": rates(host=2.0, vector=600.0)})})
    without = whole.without("relu", layers, columns, time_s)
    assert np.exp(without.log_rates["*"]) == pytest.approx(rates(host=2.0))
    assert set(without.log_rates) == {"*", "group:matmul"}


def test_what_was_taught_is_no_measurement_when_a_kind_is_left_out():
    """As if others had taught only once the kind was left out."""
    layers = [relu(1 << i) for i in range(4, 24)] + [linear(1 << i, 64, 64) for i in range(4, 12)]
    columns, time_s = Columns(layers, A30), np.repeat([40e-6, 20e-6], [20, 8])
    others = logs({"group:pooling": rates(vector=77.0, dram=1.21), "group:matmul": rates(dram=1.2), "group:elementwise": rates()})
    plain = Scaffold.fit(layers, columns, time_s)
    once, twice = (x.without("relu", layers, columns, time_s).taught(others) for x in (plain, plain.taught(others)))
    assert set(once.log_rates) == set(twice.log_rates) == {"*", "group:matmul", "group:pooling", "group:elementwise"}
    for name, row in once.log_rates.items():
        assert twice.log_rates[name] == pytest.approx(row, abs=1e-6), name


def test_cells_and_groups_by_name():
    layers = [
        conv(2, 8, 8, 8, 1), conv(2, 8, 8, 8, 3, padding=(1, 1)), conv(2, 8, 8, 8, 3, stride=(2, 2)), conv(2, 8, 8, 8, 7),
        conv(2, 8, 8, 8, 3, groups=8), conv(2, 8, 8, 8, 1).with_tf32("conv"), linear(2, 8, 8).with_tf32("all"), relu(8),
        conv(2, 8, 8, 7, 3), conv(2, 8, 8, 8, 3, groups=2), conv(2, 8, 8, 7, 1).with_tf32("conv"),
        conv(2, 3, 8, 8, 3).with_tf32("conv"), conv(2, 8, 8, 8, 3, groups=8).with_tf32("conv"),
        conv(2, 8, 8, 8, 1, stride=(2, 2)),
    ]  # fmt: skip
    columns = Columns(layers, A30)
    assert cells(columns) == [
        "conv2d/1x1", "conv2d/3x3", "conv2d/strided", "conv2d/kxk", "conv2d/depthwise", "conv2d/1x1/tc", "linear", "relu",
        "conv2d/3x3/odd", "conv2d/grouped", "conv2d/1x1/odd/tc", "conv2d/3x3", "conv2d/depthwise", "conv2d/1x1/strided",
    ]  # fmt: skip
    assert groups(columns) == [
        *["conv"] * 4, "conv/depthwise", "conv/tc", "matmul", "elementwise", "conv", "conv", "conv/tc", "conv", "conv/depthwise",
        "conv",
    ]  # fmt: skip
    assert [group_of_cell(x) for x in cells(columns)] == groups(columns)
    assert cells(Columns(layers, HARDWARE["rtx2080ti"]))[5] == "conv2d/1x1"
    direct = ["conv2d/1x1", "conv2d/direct", "conv2d/direct", "conv2d/direct", "conv2d/depthwise"]
    on_cpu = cells(Columns(layers, HARDWARE["xeon-gold-5120"]))
    assert on_cpu[:5] == direct, "whatever the stride and the window"
    assert on_cpu[8:10] == ["conv2d/direct", "conv2d/grouped"], "and the number of positions"
    assert on_cpu[-1] == "conv2d/1x1"


def test_sixteen_bytes_of_positions_are_loaded_at_once():
    """Four positions in float32, eight in half precision: 14 x 14 is odd there (on an H200 three times slower than 28 x 28)."""
    layers = [in_dtype(conv(2, 8, 8, side, 1), dtype) for side in (4, 6) for dtype in ("float32", "float16")]
    assert [x.outputs[0].shape[2] for x in layers] == [4, 4, 6, 6]
    assert ["/odd" in name for name in cells(Columns(layers, A30))] == [False, False, False, True]


def test_products_on_tensor_cores_load_sixteen_bytes_of_a_row():
    """Eight numbers in half precision, four of TF32; on an H200 a product of 49 columns takes four times as long as one of 48."""
    shapes = [(64, 48, 48), (64, 49, 48), (64, 48, 49), (63, 48, 48), (64, 52, 48)]
    halves = [in_dtype(linear(*x), "float16") for x in shapes]
    floats = [linear(*x).with_tf32("all") for x in shapes]
    for layers, odd in ((halves, [0, 1, 1, 0, 1]), (floats, [0, 1, 1, 0, 0]), ([linear(*x) for x in shapes], [0] * 5)):
        columns = Columns(layers, A30)
        assert columns.misaligned.tolist() == odd
        assert ["/odd" in name for name in cells(columns)] == odd
        assert ["/odd" in name for name in groups(columns)] == odd, "their group lends them rates, not that of all products"
        assert [group_of_cell(x) for x in cells(columns)] == groups(columns)
    assert not Columns(halves, HARDWARE["xeon-gold-5120"]).misaligned.any()


def rates_of(names: list[str]) -> Scaffold:
    """A scaffold whose rates under each of `names` make work take as many times as long as under the one before."""
    return Scaffold({name: tuple(START + i * np.log(2)) for i, name in enumerate(["*", *names])})


@pytest.mark.parametrize(
    ("names", "used"),
    [
        (["cell:linear", "group:matmul"], "cell:linear"),
        (["group:matmul"], "group:matmul"),
        (["cell:linear/half", "cell:linear"], "cell:linear/half"),
        (["cell:linear", "cell:linear/half", "group:matmul/odd"], "group:matmul/odd"),
        (["cell:linear/odd", "cell:linear/half", "group:matmul/odd/half"], "cell:linear/odd"),
        (["cell:relu", "group:elementwise"], "*"),
    ],
    ids=["cell", "group", "same numbers", "odd ones of other kinds", "odd ones of other numbers", "nothing alike"],
)
def test_products_that_nobody_measured_odd_are_taken_for_the_others(names, used):
    layer = in_dtype(linear(64, 49, 64), "float16")
    scaffold = rates_of(names)
    expected = Scaffold({"*": scaffold.log_rates[used]})
    assert scaffold.time_s(Columns([layer], A30)) == pytest.approx(expected.time_s(Columns([layer], A30)))


def test_rates_of_odd_products_are_drawn_to_those_of_the_others():
    """Five small ones cannot tell what large ones take, sixteen others can: 20 times the data sheet's."""
    even = [in_dtype(linear(1 << i, 512, 512), "float16") for i in range(8, 24)]
    odd = [in_dtype(linear(8, 8 * i + 1, 8), "float16") for i in range(1, 6)]
    columns = Columns(even + odd, A30)
    fitted = Scaffold.fit(even + odd, columns, np.where(columns.misaligned, 1e-4, 1e-4 + 20 * columns.compute_s()))
    assert "group:matmul/odd/half" in fitted.log_rates
    large = Columns([in_dtype(linear(1 << 20, 513, 512), "float16")], A30)
    assert fitted.time_s(large) > 10 * large.compute_s()


def test_attention_of_few_queries_cuts_its_keys():
    def steps(queries: int) -> float:
        query, key = op("query", 4, 8, queries, 64), op("key", 4, 8, 4096, 64)
        layer = Layer("scaled_dot_product_attention", (query, key, replace(key, name="value")), (replace(query, name="output"),))
        return float(terms(Columns([layer], A30)).work_s[0, 1] / 1e-9)

    assert [steps(x) for x in (1, 31, 32, 1024)] == pytest.approx([256, 256, 8192, 8192])


def test_attention_walks_over_keys():
    """4 x 8 heads of 300 queries, 1000 keys and a head of 64: a wave is of queries, its main loop of both products' keys."""
    query, key = op("query", 4, 8, 300, 64), op("key", 4, 8, 1000, 64)
    inputs = (query, key, replace(key, name="value"))
    columns = Columns([Layer("scaled_dot_product_attention", inputs, (replace(query, name="output"),))], A30)
    found = terms(columns).work_s[0]
    assert columns.tiles(128, 64).tolist() == [32 * 3]
    assert found[1] == pytest.approx(2000e-9)
    assert found[3] == pytest.approx(2 * (2 * 128 * 64 * 2000 * 56 / 10.3e12)), "96 tiles on 56 units are two waves"
    assert columns.tiled_flop(32, 32) == pytest.approx(4 * 32 * 320 * 64 * 1000)


def test_a_cpu_convolves_in_another_layout():
    """Copying there and back takes far longer than DRAM would; what is no convolution stays where it is."""
    plain, cpu = conv(2, 8, 8, 8, 3, padding=(1, 1)), HARDWARE["xeon-gold-5120"]
    last = replace(plain, inputs=(replace(plain.inputs[0], strides=(512, 1, 64, 8)), *plain.inputs[1:]))
    layers = [plain, last, relu(1000)]
    columns = Columns(layers, cpu)
    assert columns["channels_last"].tolist() == [0, 1, 0]
    assert terms(columns).traffic_s * cpu.dram_bytes_per_s == pytest.approx(columns.bytes_moved * np.array([100, 1, 1]))
    assert terms(Columns(layers, A30)).traffic_s * A30.dram_bytes_per_s == pytest.approx(columns.bytes_moved)


@pytest.mark.parametrize(("size", "window", "stride", "dilation", "padding", "touched"), [
    (12, 1, 3, 1, 0, 4 * 4), (12, 2, 3, 1, 0, 8 * 8), (12, 2, 4, 1, 1, 6 * 6), (12, 3, 2, 1, 0, 12 * 12), (13, 3, 2, 2, 0, 7 * 7),
    (12, 3, 1, 2, 0, 12 * 12),
])  # fmt: skip
def test_a_cpu_leaves_out_what_no_window_touches(size, window, stride, dilation, padding, touched):
    """With padding 1 four windows of two start at -1, 3, 7 and 11: six places of an edge lie inside the image."""
    pairs = {name: (x, x) for name, x in (("stride", stride), ("dilation", dilation), ("padding", padding))}
    out, cpu = (size + 2 * padding - dilation * (window - 1) - 1) // stride + 1, HARDWARE["xeon-gold-5120"]
    layer = replace(conv(2, 8, 8, size, window, **pairs), outputs=(op("output", 2, 8, out, out),))
    read = 4 * (2 * 8 * touched + 8 * 8 * window**2) + layer.write_bytes
    on_cpu = Columns([layer], cpu)
    assert terms(on_cpu).traffic_s * cpu.dram_bytes_per_s == pytest.approx(100 * read)
    assert on_cpu.bytes_moved == pytest.approx(read), "nor does power count what is not read"
    columns = Columns([layer], A30)
    assert terms(columns).traffic_s * A30.dram_bytes_per_s == pytest.approx(columns.bytes_moved), "GPUs fetch whole sectors"


def test_what_is_touched_is_counted_as_by_hand_and_at_once_for_long_sequences():
    random = np.random.default_rng(0)
    for _ in range(300):
        length, outputs, window, stride, dilation, before = random.integers(1, [40, 12, 7, 6, 5, 6])
        taps = [int(j * dilation - before) for j in range(window)]
        by_hand = {tap + i * stride for tap in taps for i in range(outputs)} & set(range(length))
        assert _touched(int(length), int(outputs), int(stride), taps) == len(by_hand)
    line = Layer(
        "conv1d", (op("input", 1, 1, 10**9), op("weight", 1, 1, 1)), (op("output", 1, 1, 5 * 10**8),), (("stride", (2,)),)
    )
    assert Columns([line], A30)["skipped_bytes"].tolist() == pytest.approx([4 * 5e8])


def test_what_is_skipped_of_sequences_and_of_images_with_padding_by_name():
    line = Layer("conv1d", (op("input", 1, 4, 30), op("weight", 4, 4, 1)), (op("output", 1, 4, 6),), (("stride", (5,)),))
    same = conv(1, 4, 4, 8, 3, padding="same")
    valid = replace(line, arguments=(("padding", "valid"), ("stride", (5,))))
    assert Columns([line, same, valid], A30)["skipped_bytes"].tolist() == pytest.approx([4 * 4 * 24, 0, 4 * 4 * 24])


def test_products_of_few_rows_or_columns_fall_into_thin_tiles():
    """Of 8 rows 32x32 tiles would compute four times what is asked, 16x128 twice; convolutions have no thin ones."""
    few, narrow, square = linear(8, 2304, 768), linear(2304, 8, 768), linear(32, 2304, 768)
    columns = Columns([few, narrow, square, conv(1, 64, 8, 12, 1)], A30)
    assert np.array(columns.smallest_tile).T.tolist() == [[16, 128], [128, 16], [32, 32], [32, 32]]
    assert columns.tiled_flop(*columns.smallest_tile)[:3] == pytest.approx(2 * 768 * 2304 * np.array([16, 16, 32]))


def test_terms_by_hand():
    big, tiny, product = relu(1 << 28), relu(256), linear(65, 33, 9)
    found = terms(Columns([big, tiny, product], A30))
    work = dict(zip(("rows", "serial", *TILES, "split", "winograd", "fft", "vector"), found.work_s.T))
    assert found.host_s.tolist() == [1e-6] * 3 and found.further.tolist() == [0] * 3
    assert found.traffic_s[:2] == pytest.approx([2 * 4 * 2**28 / 933e9, 2 * 4 * 256 / 933e9])
    assert found.l2_share[0] == pytest.approx(2 * 4 * 2**28 / A30.l2_bytes)
    assert found.matrix.tolist() == [False, False, True]
    assert work["rows"].tolist() == [0, 0, 0]
    assert work["serial"].tolist() == pytest.approx([0, 0, 9e-9])
    one_wave = [2 * a * b * 9 * 56 / 10.3e12 for a, b in ((128, 128), (128, 64), (64, 64), (32, 32))]
    assert [work[name][2] for name in TILES] == pytest.approx(one_wave)
    assert work["split"][2] == pytest.approx(2 * 32 * 32 * 9 * 56 / 10.3e12)
    assert work["vector"] == pytest.approx([2**28 / 10.3e12, 256 / 10.3e12, 0])
    assert work["winograd"].tolist() == work["fft"].tolist() == [0, 0, NEVER_S], "products have no window"


def transformed_s(*layers: Layer, hardware: str = "a30") -> list[list[float]]:
    return terms(Columns(layers, HARDWARE[hardware])).work_s[:, 7:9].tolist()


def test_convolutions_by_transforms_by_hand():
    """Tiles of 4x4 outputs take 36 products, of 32x32 inputs 544 complex ones: filters, inputs, outputs are written and read."""
    three, seven = conv(32, 64, 48, 56, 3, padding=(1, 1)), conv(2, 16, 8, 26, 7, padding=(3, 3))
    (winograd, never), (neither, fft) = transformed_s(three, seven)
    assert never == neither == NEVER_S
    tiles, images = 32 * 14**2, 4 * (32 * (64 + 48) * 56**2 + 9 * 64 * 48)
    moved = images + 2 * 4 * 36 * (64 * 48 + (64 + 48) * tiles)
    assert winograd == pytest.approx(2 * 36 * 64 * 48 * tiles / 10.3e12 + moved / 933e9)
    tiles, images = 2, 4 * (2 * (16 + 8) * 26**2 + 49 * 16 * 8)
    moved = images + 2 * 4 * 2 * 544 * (16 * 8 + (16 + 8) * tiles)
    assert fft == pytest.approx(8 * 544 * 16 * 8 * tiles / 10.3e12 + moved / 933e9)
    assert transformed_s(conv(2, 16, 8, 27, 7, padding=(3, 3))) == [[NEVER_S, NEVER_S]], "more than a tile"


def test_transforms_need_stride_one_one_group_square_windows_no_tensor_cores_and_a_gpu():
    plain = conv(2, 16, 16, 12, 3, padding=(1, 1))
    assert transformed_s(plain)[0][0] < 1e-3
    last = replace(plain, inputs=(replace(plain.inputs[0], strides=(2304, 1, 192, 16)), *plain.inputs[1:]))
    line = Layer("conv1d", (op("input", 2, 16, 144), op("weight", 16, 16, 9)), (op("output", 2, 16, 144),))
    others = [
        conv(2, 16, 16, 12, 3, stride=(2, 2)), conv(2, 16, 16, 12, 3, dilation=(2, 2)), conv(2, 16, 16, 12, 3, groups=2),
        plain.with_tf32("conv"), conv(2, 16, 16, 12, 1), conv(2, 16, 16, 40, 33), in_dtype(plain, "float64"), last, line,
        *(replace(plain, inputs=(plain.inputs[0], op("weight", 16, 16, *x))) for x in ((1, 9), (9, 1), (1, 25), (3, 5))),
    ]  # fmt: skip
    assert transformed_s(*others) == [[NEVER_S, NEVER_S]] * len(others)
    for name in ("xeon-gold-5120", "h200-sxm"):
        assert transformed_s(plain, hardware=name) == [[NEVER_S, NEVER_S]]


@pytest.mark.filterwarnings("error")
def test_a_convolution_without_outputs_takes_the_time_of_a_launch():
    nothing = Layer("conv2d", (op("input", 2, 8, 2, 2), op("weight", 8, 8, 3, 3)), (op("output", 2, 8, 0, 0),))
    time_s = START_SCAFFOLD.time_s(Columns([nothing, relu(1)], A30))
    assert time_s[0] == pytest.approx(time_s[1], rel=0.1)


def test_large_3x3_convolutions_take_winograds_time_unmeasured():
    layers = [conv(32, c, c, side, 3, padding=(1, 1)) for c, side in ((128, 28), (64, 56), (256, 14), (256, 19))]
    columns = Columns(layers, A30)
    share = START_SCAFFOLD.time_s(columns) / columns.compute_s()
    assert share.min() > 0.4 and share.max() < 0.9


def test_one_tile_more_than_fits_takes_another_wave():
    def waves(m: int) -> float:
        return terms(Columns([linear(m, 128, 512)], A30)).work_s[0, 2] / (2 * 128 * 128 * 512 * 56 / 10.3e12)

    assert [waves(x) for x in (128, 56 * 128, 56 * 128 + 1)] == pytest.approx([1, 1, 2])


def test_long_products_of_few_tiles_are_cut():
    """One tile of 32 x 32, k = 65,536: all units share it, a part of 256 each."""
    split = terms(Columns([linear(32, 32, 1 << 16)], A30)).work_s[0, 6]
    assert split == pytest.approx(max(2 * 32 * 32 * 2**16, 2 * 32 * 32 * 256 * 56) / 10.3e12)
    thin = terms(Columns([linear(8, 128, 1 << 10)], A30)).work_s[0, 6]
    assert thin == pytest.approx(2 * 32 * 32 * 256 * 56 / 10.3e12), (
        "parts of four small tiles, which take half as long as of a thin one"
    )
    many = terms(Columns([linear(8, 1 << 16, 1 << 10)], A30)).work_s[0, 6]
    assert many == pytest.approx(2 * 16 * 2**16 * 2**10 / 10.3e12), (
        "where they fill the device, the one that pads least is the fastest"
    )


def test_a_product_by_a_vector_has_no_tiles():
    """On vector units, in halves too: 32 rows of which 31 are empty would take as long as 32."""
    layers = [linear(1, 1000, 512), linear(512, 1, 1000), linear(2, 1000, 512)]
    columns = Columns([*layers, *(in_dtype(x, "float16") for x in layers)], A30)
    found = terms(columns)
    assert found.matrix.tolist() == [False, False, True] * 2 == columns.matrix_like.tolist()
    assert columns.tensor_core.tolist() == [0, 0, 0, 0, 0, 1]
    assert found.work_s[:, -1] == pytest.approx(np.array([1.024e6, 1.024e6, 0] * 2) / 10.3e12)
    assert not found.work_s[[0, 1, 3, 4], 1:7].any()


def test_poolings_that_adapt_have_a_block_for_each_plane():
    """Unless they average whole planes, which is a reduction; what has a window gathers it, whatever its size."""
    image, one, more = op("input", 2, 8, 6, 6), op("output", 2, 8, 1, 1), op("output", 2, 8, 3, 3)
    layers = [
        Layer("adaptive_avg_pool2d", (image,), (one,), (("output_size", (1, 1)),)),
        Layer("adaptive_avg_pool2d", (image,), (more,), (("output_size", (3, 3)),)),
        Layer("adaptive_max_pool2d", (image,), (one,), (("output_size", (1, 1)),)),
        Layer("max_pool2d", (image,), (more,), (("kernel_size", (1, 1)), ("stride", (2, 2)))),
    ]
    columns = Columns(layers, A30)
    assert terms(columns).work_s[:, 0] == pytest.approx([16e-9, 160e-9, 160e-9, 144 * 3e-11])
    assert [columns[x].tolist() for x in ("window", "stride")] == [[36, 4, 36, 1], [6, 2, 6, 2]]
    sequence = Layer("adaptive_avg_pool1d", (op("input", 2, 8, 64),), (op("output", 2, 8, 4),), (("output_size", (4,)),))
    assert terms(Columns([sequence], A30)).work_s[:, 0] == pytest.approx([160e-9])
    assert terms(Columns(layers, HARDWARE["xeon-gold-5120"])).work_s[:, 0] == pytest.approx([16e-9, 144e-9, 16e-9, 144e-9])


def test_transposed_depthwise_convolutions_gather_outputs_and_are_cudnn_s():
    inputs = op("input", 2, 8, 10, 10), op("weight", 8, 1, 3, 3)
    layer = Layer("conv_transpose2d", inputs, (op("output", 2, 8, 12, 12),), (("groups", 8),))
    columns = Columns([layer], A30)
    assert terms(columns).work_s[0, 0] == pytest.approx(2 * 8 * 144 * 3e-11)
    assert cells(columns) == ["conv_transpose2d/depthwise/cudnn"], "ATen's is_depthwise takes none that is transposed"


def test_norms_have_rows_and_depthwise_convolutions_and_poolings_gather():
    norm = Layer("layer_norm", (op("input", 64, 32, 768), op("weight", 768), op("bias", 768)), (op("output", 64, 32, 768),))
    depthwise = conv(2, 8, 8, 8, 3, groups=8)
    image, pooled, one = op("input", 2, 8, 8, 8), op("output", 2, 8, 4, 4), op("output", 2, 8, 1, 1)
    window = Layer("max_pool2d", (image,), (pooled,), (("kernel_size", (2, 2)), ("stride", (2, 2))))
    whole = Layer("adaptive_avg_pool2d", (image,), (one,), (("output_size", (1, 1)),))
    found = terms(Columns([norm, depthwise, window, whole], A30))
    by_hand = [64 * 32 * 1e-9, 2 * 8 * 8 * 8 * 3e-11, 2 * 8 * 4 * 4 * 3e-11, 2 * 8 * 1e-9]
    assert found.work_s[:, 0] == pytest.approx(by_hand)
    on_cpu = terms(Columns([window], HARDWARE["xeon-gold-5120"])).work_s[:, 0]
    assert on_cpu == pytest.approx([2 * 8 * 4 * 4 * 1e-9]), "which has no thread for each"
    assert not found.matrix.any()


def test_what_moves_beside_a_convolution_has_the_bounds_of_memory():
    """Kernels that turn images stream them, from L2 at best: three times as fast as from DRAM, and never a tenth of its time."""
    beside = TABLE["beside"]
    assert beside.least >= 0.3 and beside.most == TABLE["dram"].most
    assert "beside" in BLOCKS["traffic"], "a calibration moves it with all other traffic"


def test_a_warp_takes_a_short_row_of_a_softmax_and_a_block_a_long_one():
    short, long = (Layer("softmax", (op("self", 64, n),), (op("output", 64, n),), (("dim", -1),)) for n in (1024, 1025))
    assert terms(Columns([short, long], A30)).work_s[:, 0] == pytest.approx([16e-9, 64e-9])


def test_the_bias_of_a_convolution_is_a_kernel_of_its_own_on_gpus():
    plain = conv(2, 8, 16, 8, 1)
    biased = replace(plain, inputs=(*plain.inputs, op("bias", 16)))
    gpu, cpu = (terms(Columns([plain, biased], HARDWARE[name])) for name in ("a30", "xeon-gold-5120"))
    assert gpu.further.tolist() == [0, 1] and cpu.further.tolist() == [0, 0]
    assert np.diff(gpu.traffic_s) == pytest.approx(16 * 4 / 933e9)
    assert gpu.beside_s == pytest.approx([0, 2 * 2 * 16 * 64 * 4 / 933e9]) and not cpu.beside_s.any()
    depthwise = conv(2, 8, 8, 8, 3, groups=8)
    depthwise = terms(Columns([depthwise, replace(depthwise, inputs=(*depthwise.inputs, op("bias", 8)))], A30))
    assert np.diff(depthwise.traffic_s) == pytest.approx((8 * 4 + 2 * 2 * 8 * 64 * 4) / 933e9)
    assert not depthwise.beside_s.any()
    assert np.diff(cpu.traffic_s) == pytest.approx(100 * 16 * 4 / HARDWARE["xeon-gold-5120"].dram_bytes_per_s)


def test_images_are_turned_for_tensor_cores_and_back_unless_channels_are_last_already():
    plain = conv(2, 8, 16, 8, 3, padding=(1, 1))
    x = plain.inputs[0]
    last = replace(plain, inputs=(replace(x, strides=(512, 1, 64, 8)), *plain.inputs[1:]))
    layers = [plain, plain.with_tf32("conv"), last.with_tf32("conv")]
    moved_s = 2 * (2 * 8 * 64 + 2 * 16 * 64) * 4 / 933e9
    assert terms(Columns(layers, A30)).beside_s == pytest.approx([0, moved_s, 0])
    halves = Columns([in_dtype(plain, "bfloat16")], HARDWARE["xeon-platinum-8480"])
    assert halves.tensor_core.all() and not terms(halves).beside_s.any(), "processors turn none"
    points = Columns([in_dtype(conv(2, 8, 16, 8, 1), "bfloat16")], HARDWARE["xeon-platinum-8480"])
    assert points.tensor_core.all() and not points.as_it_lies.any(), "and have algorithms of their own"


def test_an_image_without_a_batch_has_the_tiles_of_a_batch_of_one():
    def pointwise(kind: str, *batch: int) -> Layer:
        inputs = op("input", *batch, 8, 8, 8), op("weight", 8, 8, 1, 1)
        return Layer(kind, inputs, (op("output", *batch, 8, 8, 8),)).with_tf32("conv")

    for kind in ("conv2d", "conv_transpose2d"):
        columns = Columns([pointwise(kind), pointwise(kind, 1), pointwise(kind, 0)], A30)
        assert columns.as_it_lies.all()
        assert columns.tiles(32, 32).tolist() == [2, 2, 0]


LIES = {
    "aligned": (conv(2, 8, 16, 8, 1).with_tf32("conv"), True),
    "aligned, half": (in_dtype(conv(2, 8, 16, 8, 1), "float16"), True),
    "odd": (conv(2, 8, 16, 7, 1).with_tf32("conv"), True),
    "odd, half": (in_dtype(conv(2, 8, 16, 7, 1), "float16"), False),
    "with padding": (replace(conv(2, 8, 16, 8, 1), outputs=(op("output", 2, 16, 12, 12),)).with_tf32("conv"), False),
    "with a stride": (conv(2, 8, 16, 8, 1, stride=(2, 2)).with_tf32("conv"), False),
    "a window": (conv(2, 8, 16, 8, 3).with_tf32("conv"), False),
}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_images_of_one_position_are_rows_of_one_product(dtype):
    """Squeeze and excite: channels lie side by side, so that nothing is turned and samples share tiles."""
    layer = in_dtype(conv(128, 64, 32, 1, 1), dtype).with_tf32("conv")
    columns = Columns([layer], A30)
    assert columns.tensor_core.all() and not columns.as_it_lies.any()
    assert columns.tiles(32, 32).tolist() == [4] and not terms(columns).beside_s.any()


def test_images_that_lie_otherwise_are_copied_before_they_are_convolved():
    """Half of the channels of an image, or its rows and columns exchanged: ATen's `contiguous`."""
    plain = conv(2, 8, 16, 8, 1).with_tf32("conv")
    for strides in ((1024, 64, 8, 1), (512, 64, 1, 8)):
        columns = Columns([plain, replace(plain, inputs=(replace(plain.inputs[0], strides=strides), plain.inputs[1]))], A30)
        found, copied_s = terms(columns), 2 * 2 * 8 * 64 * 4 / 933e9
        assert found.further.tolist() == [0, 1]
        assert found.beside_s == pytest.approx([0, copied_s]) and np.diff(found.traffic_s) == pytest.approx(0)
        assert np.diff(columns.memory_s()) == pytest.approx(copied_s)


@pytest.mark.parametrize("name", LIES)
def test_pointwise_convolutions_take_aligned_images_as_they_lie(name):
    """No image is turned, and tiles end at the end of each."""
    layer, lies = LIES[name]
    columns = Columns([layer], A30)
    assert columns.tensor_core.all()
    positions, images = int(columns["out_positions"][0]), 2
    tiles = images * -(-positions // 32) if lies else -(-images * positions // 32)
    assert columns.tiles(32, 32).tolist() == [tiles]
    assert bool(terms(columns).beside_s[0]) is not lies
    last = replace(layer, inputs=(replace(layer.inputs[0], strides=(8 * 64, 1, 64, 8)), *layer.inputs[1:]))
    assert not Columns([last], A30).as_it_lies.any() and not terms(Columns([last], A30)).beside_s.any()
    plain = layer.with_tf32("none")
    on_vector_units = plain.dtype == "float32"
    assert Columns([plain], A30).as_it_lies.any() == (lies and not on_vector_units)


def test_sectors_are_fetched_from_memory_of_gpus():
    across, along = (
        Layer("add", (op("self", 64, 64), Operand("other", (64, 64), "float32", strides)), (op("output", 64, 64),))
        for strides in ((1, 64), (64, 1))
    )
    gpu, cpu = (terms(Columns([across, along], HARDWARE[x])).traffic_s for x in ("a30", "xeon-gold-5120"))
    assert gpu[0] - gpu[1] == pytest.approx(64 * 64 * (32 - 4) / 933e9)
    assert cpu[0] == cpu[1]


def test_what_is_recurrent_does_one_product_after_another():
    def lstm(steps: int, cells: int) -> Layer:
        weights = [op("params", 512, 128) for _ in range(2 * cells)]
        state = op("hx", cells, 4, 128)
        return Layer("lstm", (op("input", steps, 4, 128), state, state, *weights), (op("output", steps, 4, 128),))

    layers = [lstm(1, 1), lstm(10, 1), lstm(10, 2), lstm(0, 1)]
    found = terms(Columns(layers, A30))
    assert found.further.tolist() == [0, 9, 19, 0]
    assert found.work_s[:3, 1:7] == pytest.approx(np.outer([1, 10, 20], found.work_s[0, 1:7]))
    assert np.isfinite(found.work_s).all(), "no steps are none"


def normed(training: bool, half: bool = False) -> Layer:
    layer = Layer(
        "batch_norm", (op("input", 4, 8, 6, 6), *(op(x, 8) for x in ("weight", "bias", "running_mean", "running_var"))),
        (op("output", 4, 8, 6, 6),), (("training", training),),
    )  # fmt: skip
    return in_dtype(layer, "float16") if half else layer


def test_batch_norm_in_eval_mode_is_a_map_of_elements():
    """It reads no statistics, so that what batch norm costs in train mode says nothing of it."""
    layers = [normed(True), normed(False), normed(False, half=True)]
    columns = Columns(layers, A30)
    assert cells(columns) == ["batch_norm", "batch_norm/eval", "batch_norm/eval/half"]
    assert groups(columns) == [group_of_cell(x) for x in cells(columns)] == ["norm", "norm/eval", "norm/eval/half"]
    norm = Layer("layer_norm", (op("input", 4, 8), op("weight", 8)), (op("output", 4, 8),))
    assert cells(Columns([norm], A30)) == ["layer_norm"], "other norms read statistics in eval mode as well"
    measured = [relu(2**i) for i in range(10, 20)] + [
        replace(normed(True), inputs=(op("input", i, 8, 6, 6),)) for i in range(1, 9)
    ]
    fitted = Scaffold.fit(measured, Columns(measured, A30), np.array([1e-5] * 10 + [1e-3] * 8))
    as_relu = fitted.time_s(Columns([relu(4 * 8 * 36)], A30))
    assert fitted.time_s(columns)[1:] == pytest.approx(np.repeat(as_relu, 2), rel=0.2) and fitted.time_s(columns)[0] > 1e-4
    of_eval = [replace(normed(False), inputs=(op("input", i, 8, 6, 6),)) for i in range(1, 9)]
    measured, time_s = measured + of_eval, np.array([1e-5] * 10 + [1e-3] * 16)
    together = Columns(measured, A30)
    alone = Scaffold.fit(measured, together, time_s).without("batch_norm", measured, together, time_s)
    assert alone.time_s(columns)[1] == pytest.approx(as_relu[0], rel=0.2), "what it would be told were it never measured"


def test_what_others_teach_of_a_kind_is_drawn_to_its_nearest_lender():
    """Halves of few kinds are drawn to the same in float32, not to what all layers share."""
    sizes = range(20, 30)
    singles = [relu(2**i) for i in sizes] + [replace(relu(2**i), kind="gelu") for i in sizes]
    halves = [in_dtype(replace(relu(2**i), kind=kind), "float16") for kind in ("relu", "gelu") for i in range(10, 16)]
    layers = singles + halves
    columns = Columns(layers, A30)
    slow = 20.0 * columns.bytes_moved / A30.dram_bytes_per_s
    fitted = Scaffold.fit(layers, columns, slow)
    alone = fitted.without("relu", layers, columns, slow)
    rates = dict(zip(RATES, alone.log_rates["group:elementwise/half"]))
    assert rates["dram"] == pytest.approx(dict(zip(RATES, alone.log_rates["group:elementwise"]))["dram"], abs=0.3)


CUDNN = {  # batch, channels, edge, window, stride
    "float16": ((8, 32, 14, 3, 1), True), "few channels": ((8, 16, 14, 3, 1), False), "wide windows": ((8, 32, 14, 7, 1), False),
    "narrow images": ((8, 32, 6, 3, 1), False), "stride": ((8, 32, 28, 3, 2), False),
    "of many channels": ((8, 512, 14, 3, 2), True), "of wide images": ((8, 256, 28, 3, 2), True),
    "of less wide ones": ((8, 256, 14, 3, 2), False),
    "of one sample": ((1, 32, 28, 5, 2), True), "of many samples": ((8, 32, 28, 5, 2), False),
    "dilated": ((8, 32, 14, 3, 1, 2), False), "points": ((1, 32, 28, 1, 2), False),
}  # fmt: skip


@pytest.mark.parametrize("name", CUDNN)
def test_depthwise_convolutions_go_to_cudnn_by_shape(name):
    (batch, channels, edge, window, stride, *dilation), by_cudnn = CUDNN[name]
    layer = conv(batch, channels, channels, edge, window, groups=channels, stride=(stride, stride), padding=(window // 2,) * 2)
    layer = replace(layer, arguments=(*layer.arguments, *(("dilation", (x, x)) for x in dilation)))
    half = in_dtype(layer, "float16")
    assert cells(Columns([layer, half], A30)) == ["conv2d/depthwise", "conv2d/depthwise" + "/cudnn" * by_cudnn + "/half"]
    assert groups(Columns([half], A30)) == ["conv/depthwise/half"]
    x = layer.inputs[0]
    last = replace(layer, inputs=(replace(x, strides=(channels * edge**2, 1, edge * channels, channels)), *layer.inputs[1:]))
    assert "cudnn" not in cells(Columns([in_dtype(layer, "bfloat16")], A30))[0], "of float16 alone"
    assert cells(Columns([last], A30)) == ["conv2d/depthwise/cudnn"]
    dense = in_dtype(conv(8, 32, 32, 14, 3, padding=(1, 1)), "float16")
    assert cells(Columns([dense, half], A30))[0].startswith("conv2d/3x3")
    assert cells(Columns([last], HARDWARE["xeon-gold-5120"])) == ["conv2d/depthwise"]


def test_an_image_without_a_batch_is_one_sample():
    layer = in_dtype(conv(1, 32, 32, 28, 5, groups=32, stride=(2, 2)), "float16")
    alone = replace(layer, inputs=(Operand("input", (32, 28, 28), "float16"), layer.inputs[1]))
    alone = replace(alone, outputs=(Operand("output", (32, 14, 14), "float16"),))
    assert cells(Columns([alone], A30)) == cells(Columns([layer], A30)) == ["conv2d/depthwise/cudnn/half"]


SEQUENCES = {"float16": (32, 1, True), "few channels": (16, 1, False), "stride": (32, 2, False)}


@pytest.mark.parametrize("name", SEQUENCES)
def test_depthwise_convolutions_of_sequences_go_to_cudnn_without_stride(name):
    channels, stride, by_cudnn = SEQUENCES[name]
    inputs = op("input", 8, channels, 64), op("weight", channels, 1, 4)
    layer = Layer("conv1d", inputs, (op("output", 8, channels, 61),), (("groups", channels), ("stride", (stride,))))
    half = in_dtype(layer, "float16")
    assert cells(Columns([layer, half], A30)) == ["conv1d/depthwise", "conv1d/depthwise" + "/cudnn" * by_cudnn + "/half"]


def test_a_bias_costs_a_share_of_a_launch_whatever_layers_with_one_take():
    """Convolutions of three channels that have one are slow, others quick: what tells them apart is not the bias."""
    slow = [conv(8, 3, 64, side, 4, stride=(4, 4)) for side in range(20, 60, 2)]
    slow = [replace(x, inputs=(*x.inputs, op("bias", 64))) for x in slow]
    quick = [conv(8, 3, 64, side, 7, stride=(2, 2)) for side in range(20, 60, 2)]
    columns = Columns(slow + quick, A30)
    fitted = Scaffold.fit(slow + quick, columns, np.repeat([100e-6, 5e-6], 20))
    plain = conv(1, 8, 16, 1, 1, stride=(2, 2))
    biased = replace(plain, inputs=(*plain.inputs, op("bias", 16)))
    without, own = fitted.time_s(Columns([plain, biased], A30))
    assert 1.01 < own / without < 2.01


def test_slopes_are_the_derivatives_of_the_law():
    layers = [*draw(40, seed=5), conv(2, 8, 8, 40, 7), conv(2, 8, 16, 9, 3), conv(2, 8, 8, 8, 3, groups=8)]
    layers[-2] = replace(layers[-2], inputs=(*layers[-2].inputs, op("bias", 16)))
    values, at = terms(Columns(layers, A30)), START + np.random.default_rng(0).normal(0, 0.3, len(RATES))
    slopes = law(at, values)[1]()
    for i, step in enumerate(1e-5 * np.eye(len(RATES))):
        assert (law(at + step, values)[0] - law(at - step, values)[0]) / 2e-5 == pytest.approx(slopes[:, i], abs=1e-7), RATES[i]


def test_campaigns_have_rates_of_their_own_that_unknown_ones_lack():
    layers = [relu(1 << i) for i in range(10, 26)]
    columns, slow = Columns(layers * 2, A30), np.repeat([0, 1], len(layers))
    truth = device(TRUTH).time_s(columns) * np.where(slow, 1.3, 1.0)
    fitted = Scaffold.fit(layers * 2, columns, truth, ("quick", "slow"), slow.astype(float))
    both = [fitted.time_s(Columns(layers, A30), np.full(len(layers), float(x))) for x in (0, 1)]
    assert np.median(both[1] / both[0]) == pytest.approx(1.3, rel=0.05)
    plain = fitted.time_s(Columns(layers, A30))
    assert (both[0] < plain).mean() > 0.8 and (plain < both[1]).mean() > 0.8
    assert fitted.of_first_run().time_s(Columns(layers, A30)) == pytest.approx(both[0])
    assert not any("@" in name for name in fitted.of_first_run().log_rates)


def test_a_campaign_with_three_rows_of_a_cell_has_rates_of_its_own_there_and_with_two_it_has_not():
    layers = [relu(1 << i) for i in range(10, 20)]
    for count in (2, 3):
        several, run = layers + layers[:count], np.repeat([0.0, 1.0], [len(layers), count])
        fitted = Scaffold.fit(several, Columns(several, A30), measure(several), ("long", "short"), run)
        assert "cell:relu@long" in fitted.log_rates and ("cell:relu@short" in fitted.log_rates) == (count == 3)


START_SCAFFOLD = Scaffold({"*": tuple(float(x) for x in START)})
sizes = st.integers(1, 1 << 13)
factors = st.floats(1.0, 64.0)


def no_less(small: Layer, large: Layer, hardware: str) -> None:
    assert large.flop >= small.flop and large.read_bytes >= small.read_bytes
    time_s = START_SCAFFOLD.time_s(Columns([small, large], HARDWARE[hardware]))
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
    sharp = device({"*": rates(host=1.0, latency=0.1, l2=1.2, dram=1.2, work_power=8.0, host_power=12.0)})
    rising = [relu(int(2 ** (18 + i / 8))) for i in range(64)]
    assert (np.diff(sharp.time_s(Columns(rising, A30))) >= 0).all()


def test_a_cell_measured_small_cannot_beat_the_device_on_large_layers():
    # launch-bound layers say nothing of the peak: the fit must not make one up
    small = [linear(2 * n, 32, k) for n in range(1, 9) for k in (8, 16, 32)]
    fitted = Scaffold.fit(small, Columns(small, A30), np.full(len(small), 20e-6))
    large = [linear(8192, 8192, 8192)]
    columns = Columns(large, A30)
    assert fitted.time_s(columns)[0] > 0.94 * columns.roofline_s()[0]


def test_only_transforms_may_beat_the_direct_convolution():
    def fastest(x: Layer) -> float:
        alike = [replace(x, inputs=(replace(x.inputs[0], name=f"copy {i}"), *x.inputs[1:])) for i in range(6)]
        columns = Columns(alike, A30)
        fitted = Scaffold.fit(alike, columns, 0.01 * columns.roofline_s())
        return float((fitted.time_s(columns) / columns.roofline_s())[0])

    assert fastest(conv(32, 512, 28, 512, 1)) > 0.9
    three = conv(32, 512, 512, 28, 3, padding=(1, 1))
    winograd = transformed_s(three)[0][0] / Columns([three], A30).roofline_s()[0]
    assert 0.75 * winograd < fastest(three) < 0.9 * winograd < 0.4


@pytest.mark.parametrize("hardware", HARDWARE)
def test_it_never_beats_the_data_sheet_by_much(hardware):
    layers = [relu(1 << 27), linear(8192, 8192, 8192)]
    columns = Columns(layers, HARDWARE[hardware])
    assert (START_SCAFFOLD.time_s(columns) > columns.roofline_s() * 0.99).all()


def test_a_launch_is_all_of_a_tiny_layer_and_nothing_of_a_large_one():
    """Of host and device, 10 and 3 us, each counts by its power of 5; the reference campaign's host is three times as slow."""
    columns = Columns([relu(1), relu(1 << 30)], A30)
    of_host = 10.0**5 / (10.0**5 + 3.0**5)
    tiny, large = Scaffold({"*": log_rates()}).launch_frac(columns)
    assert tiny == pytest.approx(of_host, rel=1e-3) and large < 1e-3
    slow = {"*": log_rates(), "cell:relu": log_rates(host=1.0), "cell:relu@b": log_rates(host=30.0)}
    assert Scaffold(slow, ("b", "a")).launch_frac(columns)[0] == pytest.approx(30.0**5 / (30.0**5 + 3.0**5), rel=1e-3)
    assert Scaffold(slow, ("a", "b")).launch_frac(columns)[0] == pytest.approx(1.0 / (1.0 + 3.0**5), rel=1e-2)
