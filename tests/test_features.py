"""Layers as numbers: finite everywhere, right where the arithmetic can be done by hand, and pinned to their version."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
from torch import nn

from wattlayer.dataset import read_measurements
from wattlayer.errors import InputError
from wattlayer.features import FEATURE_NAMES, FEATURES, FEATURES_VERSION, featurise
from wattlayer.features.columns import Columns
from wattlayer.features.dimensions import DIMENSIONS, GROUP_CODES, KIND_CODES, dimensions
from wattlayer.hardware import HARDWARE
from wattlayer.kinds import MOMENTS_APART
from wattlayer.layer import Layer, Operand
from wattlayer.model.roofline import terms
from wattlayer.trace import Trace, trace

A30 = HARDWARE["a30"]
DATA = Path(__file__).parents[1] / "data"

NAMES_DIGEST = {1: "a7c6fbf03c116f2f", 2: "bbdf414f3360892f", 3: "bbdf414f3360892f", 4: "bbdf414f3360892f",
                5: "bbdf414f3360892f", 6: "bbdf414f3360892f", 7: "bbdf414f3360892f", 8: "bbdf414f3360892f",
                9: "bbdf414f3360892f", 10: "bbdf414f3360892f", 11: "bbdf414f3360892f", 12: "bbdf414f3360892f",
                13: "bbdf414f3360892f"}  # fmt: skip
"""SHA-256 of the feature names by version: a changed list needs a new version and a new line here. The third counts the tiles and
waves of attention otherwise, the fourth the bytes of operands that products copy, the fifth blocks of batch norm in eval mode,
queries of heads that share keys, cells of recurrent layers and which operands are expanded, the sixth the tiles of 1x1
convolutions on tensor cores image by image, and inputs and state of recurrent layers together, the seventh the windows of
poolings that adapt, no tiles of products by a vector and what convolutions copy, the eighth thin tiles of products and what
convolutions skip on CPUs, the ninth counts these nowhere as moved, the tenth leaves a bias that is a kernel of its own to the
scaffold and parts the rows of grouped products among the matrices that they meet, the eleventh takes whichever small tile is the
fastest, the twelfth knows vector units that pack two numbers from tensor cores, the thirteenth what norms in parts read again."""


class Oddments(nn.Module):
    """Operators that have no place in a GEMM: sorting, gathering, resampling, Fourier, scalars."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
        flat = x.flatten(1)
        return (
            y.to(torch.float16), flat.sort().values, flat.topk(3).values, flat.softmax(1), x.sum(), x.mean((2, 3)), x.sum() * 2,
            torch.fft.fft(flat).real, flat[:, :3].cumsum(1), torch.cat([flat, flat]), x.transpose(1, 2) + 1, flat[flat.argmax(1)],
            nn.functional.group_norm(x, 2), nn.functional.instance_norm(x), x.contiguous(memory_format=torch.channels_last) + 1,
        )  # fmt: skip


TRACES: dict[str, Trace] = {
    "conv net": trace(networks.ConvNet().eval(), torch.empty(2, 3, 16, 16)),
    "attention": trace(networks.FunctionalAttention(), torch.empty(2, 6, 32)),
    "recurrent": trace(networks.Recurrent(), torch.empty(5, 3, 16)),
    "convolutions": trace(networks.Convolutions(), torch.empty(2, 4, 9), torch.empty(2, 8, 12, 10), torch.empty(2, 2, 3, 8, 8)),
    "products": trace(networks.Products(), torch.empty(3, 4, 5), torch.empty(3, 5, 6)),
    "tied weights": trace(networks.TiedWeights(), torch.zeros(2, 7, dtype=torch.int64)),
    "in place": trace(networks.InPlace(), torch.empty(3, 4)),
    "encoder": trace(nn.TransformerEncoderLayer(16, 2, batch_first=True).eval(), torch.empty(2, 5, 16)),
    "oddments": trace(Oddments(), torch.empty(2, 4, 6, 6)),
}

ALL_LAYERS = list(dict.fromkeys(x for t in TRACES.values() for x in (*t.layers, *t.with_tf32("all").layers)))


def op(name: str, *shape: int, dtype: str = "float32") -> Operand:
    return Operand(name, shape, dtype)


def sizes(layer: Layer) -> dict[str, float]:
    return dict(zip(DIMENSIONS, dimensions(layer)))


def feature(name: str, layer: Layer, hardware: str = "a30") -> float:
    return float(featurise(Columns([layer], HARDWARE[hardware]))[0, FEATURE_NAMES.index(name)])


def first(module: nn.Module, *shape: int) -> Layer:
    return trace(module.eval(), torch.empty(shape)).layers[0]


def called(function, *operands: torch.Tensor) -> Layer:
    return trace(networks.Runs(function), *operands).layers[0]


@pytest.mark.parametrize("hardware", HARDWARE)
def test_every_value_is_finite(hardware):
    table = featurise(Columns(ALL_LAYERS, HARDWARE[hardware]))
    assert table.shape == (len(ALL_LAYERS), len(FEATURE_NAMES))
    assert np.isfinite(table).all(), [FEATURE_NAMES[i] for i in np.flatnonzero(~np.isfinite(table).all(axis=0))]
    assert len({x.group for x in ALL_LAYERS}) > 10


EMPTY = [
    Layer("relu", (op("self", 0, 3),), (op("output", 0, 3),)),
    Layer("mean", (op("self", 0, 4),), (op("output"),)),
    Layer("linear", (op("input", 0, 4), op("weight", 3, 4)), (op("output", 0, 3),)),
    Layer("sort", (op("self", 0),), (op("values", 0), op("indices", 0, dtype="int64"))),
    Layer("add", (op("self"), op("other")), (op("output"),)),
    Layer("arange", (), (op("output", 5),)),
    Layer("mystery", (), ()),
]


@pytest.mark.parametrize("layer", EMPTY, ids=lambda x: x.kind)
def test_layers_without_elements_or_operands_are_finite_too(layer):
    assert np.isfinite(featurise(Columns([layer], A30))).all()


def test_no_layers_are_an_empty_table():
    assert featurise(Columns([], A30)).shape == (0, len(FEATURE_NAMES))


def test_names_are_unique_and_in_the_order_of_the_table():
    assert tuple(f.name for f in FEATURES) == FEATURE_NAMES
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
    columns = Columns(ALL_LAYERS, A30)
    table = featurise(columns)
    for i, f in enumerate(FEATURES):
        assert np.array_equal(table[:, i], f.compute(columns))


def test_another_list_of_features_needs_another_version():
    codes = [f"{name}={code}" for table in (KIND_CODES, GROUP_CODES) for name, code in table.items()]
    digest = hashlib.sha256("\n".join((*FEATURE_NAMES, *codes)).encode()).hexdigest()[:16]
    assert NAMES_DIGEST.get(FEATURES_VERSION) == digest, (
        f"the features changed: raise FEATURES_VERSION and add its digest {digest} to NAMES_DIGEST"
    )


def test_codes_are_unique():
    assert len(set(KIND_CODES.values())) == len(KIND_CODES)
    assert len(set(GROUP_CODES.values())) == len(GROUP_CODES)


# --- which units compute


@pytest.mark.parametrize(("groups", "device", "on_cores", "faster"), [
    (1, "a30", 1.0, 165 / 10.3), (32, "a30", 0.0, 1.0), (1, "jetson-nano", 0.0, 2.0), (32, "jetson-nano", 0.0, 2.0),
])  # fmt: skip
def test_half_precision_is_packed_where_there_are_no_tensor_cores(groups, device, on_cores, faster):
    """Depthwise convolutions do not fit tensor cores, but lanes that take two numbers each compute them as all others."""
    conv, x = nn.Conv2d(32, 32, 3, groups=groups), torch.empty(8, 32, 16, 16)
    traces = (trace(conv, x, dtype=dtype, tf32="none") for dtype in ("float16", "float32"))
    half, full = (Columns(traced.layers, HARDWARE[device]) for traced in traces)
    assert half.tensor_core.tolist() == [on_cores]
    assert half.peak_flop_per_s / full.peak_flop_per_s == pytest.approx([faster], rel=0.01)


@pytest.mark.parametrize(("channels", "on_cores"), [(12, 0.0), (16, 1.0)])
def test_tensor_cores_load_eight_channels_of_half_precision_at_once(channels, on_cores):
    (conv,) = trace(nn.Conv2d(channels, 16, 3), torch.empty(8, channels, 16, 16), dtype="float16").layers
    assert Columns([conv], A30).tensor_core.tolist() == [on_cores]


# --- M, N, K and B of [m, k] x [k, n], worked out by hand

PRODUCTS = {
    "conv": (first(nn.Conv2d(3, 8, 3, padding=1), 2, 3, 10, 10), (1, 2 * 100, 8, 27)),
    "strided conv": (first(nn.Conv2d(4, 6, (1, 5), stride=2), 3, 4, 9, 9), (1, 3 * 5 * 3, 6, 20)),
    "grouped conv": (first(nn.Conv2d(8, 12, 3, groups=4), 2, 8, 6, 6), (4, 2 * 16, 3, 18)),
    "depthwise conv": (first(nn.Conv2d(16, 16, 3, groups=16), 2, 16, 6, 6), (16, 2 * 16, 1, 9)),
    "transposed conv": (first(nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2), 2, 8, 5, 5), (2, 2 * 25, 3 * 4, 4)),
    "linear": (first(nn.Linear(5, 7), 2, 3, 5), (1, 6, 7, 5)),
    "addmm": (Layer("addmm", (op("self", 6), op("mat1", 2, 3), op("mat2", 3, 6)), (op("output", 2, 6),)), (1, 2, 6, 3)),
    "bmm": (Layer("bmm", (op("self", 5, 2, 5), op("mat2", 5, 5, 4)), (op("output", 5, 2, 4),)), (5, 2, 4, 5)),
    "matmul by a vector": (Layer("mv", (op("self", 5, 3), op("vec", 3)), (op("output", 5),)), (1, 5, 1, 3)),
    "weight of bytes": (
        Layer("_weight_int8pack_mm", (op("self", 6, 5), op("mat2", 7, 5, dtype="int8"), op("scales", 7)), (op("output", 6, 7),)),
        (1, 6, 7, 5),
    ),
    "tiles of a packed weight": (
        Layer(
            "_weight_int4pack_mm", (op("self", 6, 64), op("mat2", 2, 2, 32, 2, dtype="int32"), op("qScaleAndZeros", 2, 16, 2)),
            (op("output", 6, 16),),
        ),
        (1, 6, 16, 64),
    ),
    "sum of products": (
        Layer("addbmm", (op("self", 2, 6), op("batch1", 3, 2, 4), op("batch2", 3, 4, 6)), (op("output", 2, 6),)), (3, 2, 6, 4),
    ),
    "experts": (Layer("_grouped_mm", (op("self", 12, 4), op("mat2", 3, 4, 6)), (op("output", 12, 6),)), (3, 4, 6, 4)),
    "idle experts": (Layer("_grouped_mm", (op("self", 2, 4), op("mat2", 64, 4, 6)), (op("output", 2, 6),)), (2, 1, 6, 4)),
    "distances": (Layer("cdist", (op("x1", 2, 3, 4), op("x2", 2, 5, 4)), (op("output", 2, 3, 5),)), (2, 3, 5, 4)),
    "packed weight": (Layer("quantized::linear_dynamic", (op("X", 2, 3, 5),), (op("output", 2, 3, 7),)), (1, 6, 7, 5)),
    "attention": (
        Layer("scaled_dot_product_attention", (op("query", 2, 4, 6, 8), op("key", 2, 4, 9, 8), op("value", 2, 4, 9, 8)),
              (op("output", 2, 4, 6, 8),)),
        (8, 6, 9, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_by_hand(name):
    layer, expected = PRODUCTS[name]
    assert tuple(sizes(layer)[x] for x in ("batches", "m", "n", "k")) == expected


@pytest.mark.parametrize(("device", "told"), [("a30", 0.0), ("xeon-gold-5120", 1.0)])
def test_a_bias_that_is_a_kernel_of_its_own_is_physics_alone(device, told):
    """On a GPU what is learned sees no difference, the scaffold does; a processor adds it within the convolution."""
    layers = [first(nn.Conv2d(16, 32, 3, bias=bias), 8, 16, 56, 56) for bias in (True, False)]
    columns = Columns(layers, HARDWARE[device])
    table = featurise(columns)
    for name in ("bias", "operands"):
        column = table[:, FEATURE_NAMES.index(name)]
        assert column[0] - column[1] == told
    physics, passed_s = terms(columns), 2 * 4 * 8 * 32 * 54 * 54 / HARDWARE[device].dram_bytes_per_s
    assert physics.beside_s[0] - physics.beside_s[1] == pytest.approx(passed_s * (1 - told), rel=1e-3)
    assert physics.further[0] - physics.further[1] == 1 - told


def calls(name: str, function, *operands: torch.Tensor) -> int:
    """How often torch calls an operator while it runs another."""
    with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        function(*operands)
    return sum(event.count for event in profile.key_averages() if event.key == name)


HEADS = torch.randn(2, 16, 12, 8)
OPERANDS = {
    "heads apart": (torch.matmul, (HEADS.transpose(1, 2), HEADS.permute(0, 2, 3, 1)), 2),
    "heads of one sample": (torch.matmul, (HEADS[:1].transpose(1, 2), HEADS[:1].permute(0, 2, 3, 1)), 0),
    "one of two": (torch.matmul, (torch.randn(2, 12, 16, 16), HEADS.transpose(1, 2)), 1),
    "transposed matrices": (torch.matmul, (torch.randn(2, 3, 4, 5), torch.randn(2, 3, 6, 5).transpose(-1, -2)), 0),
    "the same keys for some heads": (torch.matmul, (torch.randn(2, 3, 4, 5), torch.randn(2, 1, 5, 6)), 1),
    "the same matrices for every sample": (torch.matmul, (torch.randn(2, 3, 4, 5), torch.randn(3, 5, 6)), 1),
    "one sample by many": (torch.matmul, (torch.randn(1, 3, 4, 5), torch.randn(2, 3, 5, 6)), 1),
    "one matrix for every head": (torch.matmul, (torch.randn(2, 3, 4, 5), torch.randn(1, 1, 5, 6).expand(2, 3, 5, 6)), 0),
    "rows of a transposed batch": (nn.functional.linear, (torch.randn(4, 8, 16).transpose(0, 1), torch.randn(5, 16)), 0),
    "transposed images": (nn.functional.linear, (torch.randn(4, 16, 8).transpose(1, 2), torch.randn(5, 16), torch.randn(5)), 0),
    "a transposed matrix": (torch.mm, (torch.randn(3, 4), torch.randn(5, 4).T), 0),
    "every other column": (torch.mm, (torch.randn(16, 8)[:, ::2], torch.randn(4, 3)), 1),
    "a row with gaps": (torch.mm, (torch.randn(1, 8)[:, ::2], torch.randn(4, 3)), 1),
    "one row many times": (torch.mm, (torch.randn(1, 4).expand(6, 4), torch.randn(4, 3)), 1),
    "overlapping frames": (torch.mm, (torch.randn(20).unfold(0, 5, 2), torch.randn(5, 3)), 1),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_operands_are_copied_where_torch_copies_them(name):
    function, operands, copies = OPERANDS[name]
    layer = called(function, *operands)
    assert calls("aten::clone", function, *operands) == sizes(layer)["copies"] == copies


LINEAR = {
    "rows": (torch.randn(2, 3, 5), 0),
    "a transposed matrix": (torch.randn(5, 6).T, 0),
    "transposed images": (torch.randn(4, 5, 8).transpose(1, 2), 1),
    "all but the first": (torch.randn(4, 8, 5)[:, 1:], 1),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_bias_is_added_where_torch_adds_it(name):
    x, added = LINEAR[name]
    operands = (x, torch.randn(7, x.shape[-1]), torch.randn(7))
    layer = called(nn.functional.linear, *operands)
    assert calls("aten::add_", nn.functional.linear, *operands) == sizes(layer)["added"] == added
    without = called(nn.functional.linear, *operands[:2])
    more_bytes = np.diff(terms(Columns([without, layer], HARDWARE["a30"])).traffic_s) * HARDWARE["a30"].dram_bytes_per_s
    assert more_bytes == pytest.approx(7 * 4 + added * 2 * layer.write_bytes)


LINEAR_BATCHES = {
    "rows": (torch.randn(2, 3, 5), 1),
    "a transposed matrix": (torch.randn(5, 6).T, 1),
    "transposed images": (torch.randn(4, 5, 8).transpose(1, 2), 4),
    "a transposed batch": (torch.randn(4, 8, 5).transpose(0, 1), 8),
    "all but the first": (torch.randn(4, 8, 5)[:, 1:], 4),
    "the first half of each row": (torch.randn(4, 8, 10)[..., :5], 1),
    "windows of images": (torch.randn(2, 3, 4, 6, 5).transpose(1, 2), 24),
}


@pytest.mark.parametrize("product", ["linear", "matmul"])
@pytest.mark.parametrize("name", LINEAR_BATCHES)
def test_rows_are_as_many_products_as_torch_makes_of_them(name, product):
    x, batches = LINEAR_BATCHES[name]
    weight = torch.randn(7, x.shape[-1])
    function, operands = (nn.functional.linear, (x, weight)) if product == "linear" else (torch.matmul, (x, weight.T))
    found = sizes(called(function, *operands))
    assert calls("aten::bmm", function, *operands) == (batches > 1)
    assert (found["batches"], found["m"] * found["batches"], found["n"], found["k"]) == (batches, x[..., 0].numel(), 7, 5)


def test_products_whose_batches_do_not_fit_are_refused():
    layer = Layer("matmul", (op("self", 2, 3, 4, 5), op("other", 4, 3, 5, 6)), (op("output", 4, 3, 4, 6),))
    with pytest.raises(InputError, match=r"\(2, 3, 4, 5\) and \(4, 3, 5, 6\) of a product share no batches: correct the shapes"):
        sizes(layer)


def test_a_copy_is_read_and_written():
    layer = called(torch.matmul, HEADS.transpose(1, 2), HEADS.permute(0, 2, 3, 1))
    assert Columns([layer], HARDWARE["a30"]).bytes_moved == pytest.approx(
        layer.read_bytes + layer.write_bytes + 2 * 2 * HEADS.numel() * 4
    )
    shared = called(torch.matmul, torch.randn(2, 3, 4, 5), torch.randn(2, 1, 5, 6))
    assert sizes(shared)["copied_bytes"] == 2 * 3 * 5 * 6 * 4, "written for every head"


@pytest.mark.parametrize("name", [x for x in PRODUCTS if x != "attention"])
def test_products_hold_all_the_flop(name):
    x = sizes(PRODUCTS[name][0])
    assert 2 * x["batches"] * x["m"] * x["n"] * x["k"] == x["flop"]


def test_grouped_queries_and_causal_masks_are_seen():
    shared = Layer(
        "scaled_dot_product_attention", (op("query", 2, 8, 6, 4), op("key", 2, 2, 6, 4), op("value", 2, 2, 6, 4)),
        (op("output", 2, 8, 6, 4),), (("is_causal", True),),
    )  # fmt: skip
    assert (sizes(shared)["heads_per_kv"], sizes(shared)["causal"]) == (4, 1)
    plain = PRODUCTS["attention"][0]
    assert (sizes(plain)["heads_per_kv"], sizes(plain)["causal"]) == (1, 0)


@pytest.mark.parametrize(
    ("name", "flag"),
    [("depthwise conv", 1.0), ("grouped conv", 0.0), ("conv", 0.0), ("linear", 0.0), ("attention", 0.0), ("bmm", 0.0)],
)
def test_depthwise_is_as_many_groups_as_channels(name, flag):
    assert feature("depthwise", PRODUCTS[name][0]) == flag


def test_windows_strides_norms_and_reductions():
    pool = sizes(first(nn.MaxPool2d(3, stride=2), 2, 4, 9, 9))
    assert (pool["window"], pool["stride"], pool["m"], pool["n"]) == (9, 2, 2 * 4 * 16, 324 * 2 / 128)
    assert sizes(first(nn.AvgPool2d(2), 2, 4, 8, 8))["stride"] == 2
    assert sizes(called(lambda x: nn.functional.max_pool2d(x, 3), torch.empty(2, 4, 10, 10)))["stride"] == 3, "as wide as windows"
    assert [sizes(first(nn.BatchNorm2d(4), 2, 4, 3, 3))[x] for x in "mn"] == [8, 9], "a block for each channel of each sample"
    channels_last = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    side_by_side = called(nn.functional.batch_norm, channels_last, *torch.ones(2, 4))
    assert [[sizes(x)[axis] for axis in "mn"] for x in (first(nn.BatchNorm1d(4), 6, 4), side_by_side)] == [[4, 6], [4, 18]]
    in_train = called(lambda x, *of: nn.functional.batch_norm(x, *of, training=True), torch.randn(2, 4, 3, 3), *torch.ones(2, 4))
    assert [sizes(in_train)[x] for x in "mn"] == [4, 18], "one statistic for each channel"
    for affine in (True, False):
        assert [sizes(first(nn.InstanceNorm2d(4, affine=affine), 2, 4, 3, 3))[x] for x in "mn"] == [8, 9]
    assert [sizes(first(nn.LayerNorm(6), 2, 5, 6))[x] for x in "mn"] == [10, 6]
    assert [sizes(first(nn.GroupNorm(2, 8), 3, 8, 4))[x] for x in "mn"] == [6, 16]
    assert [sizes(first(nn.Softmax(1), 3, 8, 4))[x] for x in "mn"] == [12, 8]
    assert sizes(first(nn.Conv2d(3, 8, 3, dilation=2), 1, 3, 9, 9))["dilation"] == 2


NORM = first(nn.LayerNorm(6, elementwise_affine=False), 2, 5, 6)
POOL, CONV = first(nn.MaxPool2d(2), 2, 4, 8, 8), first(nn.Conv2d(4, 8, 3), 2, 4, 9, 9)
BROKEN = {
    "a number": (NORM, "normalized_shape", 6), "text": (NORM, "normalized_shape", "6"),
    "texts": (NORM, "normalized_shape", ("a",)), "nothing": (NORM, "normalized_shape", (0,)),
    "below nothing": (NORM, "normalized_shape", (-6,)), "another size": (NORM, "normalized_shape", (5,)),
    "no window": (POOL, "kernel_size", None), "a window in words": (POOL, "kernel_size", "two"),
    "no number of groups": (CONV, "groups", "x"), "a dimension in words": (first(nn.Softmax(1), 3, 8), "dim", "last"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_arguments_that_fit_no_kind_are_refused(name):
    """A record read from a file may say anything."""
    layer, argument, value = BROKEN[name]
    broken = replace(layer, arguments=tuple(sorted({**dict(layer.arguments), argument: value}.items())))
    with pytest.raises(InputError, match=f"do not fit the kind '{layer.kind}': correct the shapes of the layer") as caught:
        sizes(broken)
    assert f"{argument}={value!r}" in str(caught.value)


class Packed(nn.Module):
    """An LSTM on two sequences of five steps and of three."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 3])))[0].data


def recurrent(module: nn.Module, *shape: int) -> Layer:
    return next(x for x in trace(module.eval(), torch.empty(shape)).layers if x.group == "recurrent")


WEIGHTS = (op("params", 1024, 256), op("params", 1024, 256))
STEPS = {
    "few samples": (recurrent(nn.LSTM(256, 256), 512, 2, 256), (512, 2)),
    "few steps": (recurrent(nn.LSTM(256, 256), 2, 512, 256), (2, 512)),
    "samples first": (recurrent(nn.GRU(256, 256, batch_first=True), 2, 512, 256), (512, 2)),
    "many samples first": (recurrent(nn.RNN(256, 256, batch_first=True), 512, 2, 256), (2, 512)),
    "one sample": (recurrent(nn.LSTM(256, 256, batch_first=True), 6, 256), (6, 1)),
    "one sample without a batch": (Layer("lstm", (op("input", 6, 256), *WEIGHTS), (op("output", 6, 256),)), (6, 1)),
    "more steps than features": (Layer("lstm", (op("input", 300, 256), *WEIGHTS), (op("output", 300, 256),)), (300, 1)),
    "packed": (recurrent(Packed(), 5, 2, 8), (5, 8 / 5)),
    "two layers in two directions": (recurrent(nn.GRU(64, 64, 2, bidirectional=True), 6, 3, 64), (6 * 4, 3)),
}


@pytest.mark.parametrize("name", STEPS)
def test_recurrent_layers_take_their_steps_one_after_another(name):
    layer, expected = STEPS[name]
    assert (sizes(layer)["batches"], sizes(layer)["m"]) == expected
    assert layer.flop == 2 * sizes(layer)["batches"] * sizes(layer)["m"] * sizes(layer)["n"] * sizes(layer)["k"]


def test_a_step_multiplies_inputs_and_state_by_the_weights_of_all_gates():
    for module, gates in ((nn.LSTM(24, 40), 4), (nn.GRU(24, 40), 3), (nn.RNN(24, 40), 1)):
        found = sizes(recurrent(module, 6, 2, 24))
        assert (found["n"], found["k"]) == (gates * 40, 24 + 40)


def test_norms_without_an_affine_part_have_the_rows_of_their_shape():
    plain = trace(nn.LayerNorm((6, 8), elementwise_affine=False), torch.empty(4, 5, 6, 8)).layers[0]
    affine = trace(nn.LayerNorm((6, 8)), torch.empty(4, 5, 6, 8)).layers[0]
    assert sizes(plain)["m"] == sizes(affine)["m"] == 4 * 5
    assert sizes(plain)["n"] == sizes(affine)["n"] == 6 * 8


def test_steps_take_longer_than_samples():
    columns = Columns([STEPS["few samples"][0], STEPS["few steps"][0]], A30)
    assert np.divide(*columns.waves(32, 32)) > 10


def test_measured_recurrent_layers_keep_their_sizes():
    """What shipped models learnt from took the longer of the first two sizes for the steps, which it is in all these rows."""
    rows = read_measurements(DATA / "h200-sxm" / "2026-11-26-h200-sxm-0.jsonl")
    measured = {x.layer for x in rows if x.layer is not None and x.layer.group == "recurrent"}
    assert len(measured) == 5
    for layer in measured:
        shape = layer.inputs[0].shape
        assert (sizes(layer)["batches"], sizes(layer)["m"]) == (max(shape[:2]), min(shape[:2]))


def test_train_mode_and_channels_last_are_seen():
    norm = nn.BatchNorm2d(4)
    train, evaluated = (trace(norm, torch.empty(2, 4, 3, 3), train_mode=t).layers for t in (True, False))
    assert max(sizes(x)["train"] for x in train) == 1
    assert sizes(evaluated[0])["train"] == 0
    relu = trace(nn.ReLU(), torch.empty(2, 4, 3, 3).to(memory_format=torch.channels_last)).layers[0]
    assert (sizes(relu)["channels_last"], sizes(relu)["strided"]) == (1, 0)


# --- tiles, waves and the roofline


def square(m: int, n: int, k: int = 64) -> Layer:
    return Layer("mm", (op("self", m, k), op("mat2", k, n)), (op("output", m, n),))


LAYOUTS = {
    "both alike": ((0, 2, 1), (0, 2, 1), 0),
    "contiguous": ((0, 1, 2), (0, 1, 2), 0),
    "one of two": ((0, 2, 1), (0, 1, 2), 1),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_element_wise_operands_of_one_layout_lie_together(name):
    """TensorIterator walks all operands in their order in memory, where they have the same."""
    *orders, apart = LAYOUTS[name]
    operands = [torch.randn([8, 6, 4] if order == (0, 1, 2) else [8, 4, 6]).permute(order) for order in orders]
    assert sizes(called(torch.add, *operands))["strided"] == apart


def test_gaps_and_copies_lie_apart():
    assert sizes(called(torch.relu, torch.randn(8, 6)[:, ::2]))["strided"] == 1
    assert sizes(called(torch.clone, torch.randn(8, 6).T))["strided"] == 1
    channels_last = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    assert sizes(called(torch.relu, channels_last))["strided"] == 0
    assert sizes(called(torch.add, channels_last, torch.randn(2, 8, 4, 4)))["strided"] == 1
    assert sizes(called(torch.add, torch.randn(8, 6), torch.randn(8, 1).expand(8, 6)))["strided"] == 1
    assert sizes(called(nn.functional.glu, torch.randn(8, 12)[:, :6]))["strided"] == 1


EXPANDED = {"a row": (4,), "a column": (6, 1), "one number": (), "a channel of many": (8, 1, 1)}


@pytest.mark.parametrize("name", EXPANDED)
def test_operands_that_are_expanded_lie_apart(name):
    """TensorIterator's vectorised kernels take operands of one size; for others each element's place is reckoned."""
    x = torch.randn(8, 6, 4)
    assert sizes(called(torch.mul, x, torch.randn(EXPANDED[name])))["strided"] == 1
    assert sizes(called(torch.mul, x, torch.randn(1, 8, 6, 4)[0]))["strided"] == 0
    assert sizes(called(torch.mul, x, 2.0))["strided"] == 0


UNFIT = {
    "batch norm of a row": Layer("batch_norm", (op("input", 8), op("weight", 8)), (op("output", 8),)),
    "a state of one number": Layer("lstm", (op("input", 5, 2, 8), op("hx"), op("params", 64, 8)), (op("output", 5, 2, 16),)),
    "softmax over no dimension": Layer("softmax", (op("self", 4, 8),), (op("output", 4, 8),), (("dim", 2),)),
}


@pytest.mark.parametrize("name", UNFIT)
def test_shapes_that_do_not_fit_their_kind_are_refused_with_the_cure(name):
    layer = UNFIT[name]
    with pytest.raises(InputError) as caught:
        Columns([layer], A30)
    assert str(caught.value).count("\n") == 0
    assert layer.kind in str(caught.value) and str(layer.inputs[0].shape) in str(caught.value) and "correct" in str(caught.value)


def test_what_is_read_across_its_layout_fetches_sectors():
    """32 bytes for every element that lies that far or farther from its neighbour in the row that is walked along."""
    channels_last = torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last)
    other = torch.randn(2, 8, 4, 4)
    assert sizes(called(torch.add, channels_last, channels_last))["across_bytes"] == 0
    assert sizes(called(torch.add, channels_last, other))["across_bytes"] == 256 * (32 - 4), "walks along the first: channels"
    assert sizes(called(torch.add, other, channels_last.half()))["across_bytes"] == 256 * (8 * 2 - 2), "eight channels apart"
    assert sizes(called(torch.relu, torch.randn(8, 6)[:, ::2]))["across_bytes"] == 24 * (8 - 4), "every other one"
    assert sizes(called(torch.Tensor.contiguous, torch.randn(8, 6).T))["across_bytes"] == 48 * (6 * 4 - 4)
    assert sizes(called(torch.Tensor.contiguous, torch.randn(6, 8, 4).transpose(0, 1)))["across_bytes"] == 0
    other = torch.randn(4, 6)
    assert sizes(called(torch.add, torch.randn(6).expand(4, 6), other))["across_bytes"] == 0, (
        "what is expanded is not walked along"
    )
    assert sizes(called(torch.add, torch.randn(4, 1).expand(4, 6), other))["across_bytes"] == 0
    for keeps in (lambda x: torch.cat([x, x], 1), lambda x: x.half(), lambda x: nn.functional.pad(x, (1, 1))):
        assert sizes(called(keeps, channels_last))["across_bytes"] == 0, "what keeps the layout"
    taken = called(lambda table, rows: table.T.index_select(1, rows), torch.randn(1000, 64), torch.tensor([1, 2]))
    assert sizes(taken)["across_bytes"] == 128 * (32 - 4), "of what is taken, not of all the table"
    assert sizes(called(torch.mul, channels_last, torch.randn(8, 1, 1)))["across_bytes"] == 0, "its channels lie side by side"
    assert sizes(first(nn.Conv2d(8, 8, 3), 2, 8, 9, 9))["across_bytes"] == 0


@pytest.mark.parametrize(
    "called_on", [lambda x: nn.functional.layer_norm(x, (16,)), lambda x: nn.functional.softmax(x, -1)], ids=["norm", "softmax"]
)
def test_rows_that_lie_apart_are_copied_before_they_are_normed(called_on):
    apart, together = (called(called_on, x) for x in (torch.randn(4, 16, 9).transpose(1, 2), torch.randn(4, 9, 16)))
    assert [sizes(apart)[x] for x in ("copies", "copied_bytes", "across_bytes", "strided")] == [1, 576 * 4, 576 * (32 - 4), 0]
    assert [sizes(together)[x] for x in ("copies", "copied_bytes", "across_bytes", "strided")] == [0, 0, 0, 0]


NORMS = {  # kernels beside the first, and whether the rows are read again
    "layer norm": (first(nn.LayerNorm(16), 9, 16), 0),
    "rows that are no whole fours": (first(nn.LayerNorm(18), 9, 18), 1),
    "float64": (called(lambda x: nn.functional.layer_norm(x, (16,)), torch.randn(9, 16, dtype=torch.float64)), 1),
    "RMS norm": (first(nn.RMSNorm(16), 9, 16), 0),
    "RMS norm of odd rows": (first(nn.RMSNorm(15), 9, 15), 1),
    "moments apart": (replace(first(nn.LayerNorm(16), 9, 16), arguments=((MOMENTS_APART, True),)), 1),
    "group norm": (first(nn.GroupNorm(2, 4), 3, 4, 5, 5), 2),
    "group norm of rows": (first(nn.GroupNorm(2, 4), 3, 4), 1),
    "group norm without weights": (first(nn.GroupNorm(2, 4, affine=False), 3, 4, 5, 5), 1),
    "batch norm": (first(nn.BatchNorm2d(4), 3, 4, 5, 5), 0),
    "softmax": (first(nn.Softmax(-1), 9, 15), 0),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_in_parts_are_more_kernels_and_read_their_rows_again(name):
    """As aten/src/ATen/native/cuda/layer_norm_kernel.cu and group_norm_kernel.cu launch them; CPUs take a row at a time."""
    layer, further = NORMS[name]
    reread_bytes = layer.inputs[0].size_bytes * (further > 0)
    assert (sizes(layer)["further"], sizes(layer)["reread_bytes"]) == (further, reread_bytes)
    on_gpu, on_cpu = (Columns([layer], HARDWARE[x]) for x in ("a30", "xeon-gold-5120"))
    assert terms(on_gpu).further == further
    assert terms(on_cpu).further == 0
    once_bytes = layer.read_bytes + layer.write_bytes
    for moved_bytes in (on_gpu.bytes_moved, terms(on_gpu).traffic_s * HARDWARE["a30"].dram_bytes_per_s):
        assert moved_bytes == pytest.approx(once_bytes + reread_bytes)
    assert on_cpu.bytes_moved == pytest.approx(once_bytes)
    assert on_gpu.l2_share == pytest.approx(once_bytes / HARDWARE["a30"].l2_bytes), "what is read twice is held once"


def attended(batch: int, heads: int, queries: int, keys: int, kv_heads: int, dtype: str, **arguments: bool) -> Layer:
    shapes = [(heads, queries), (kv_heads, keys), (kv_heads, keys)]
    operands = [Operand(name, (batch, *shape, 64), dtype) for name, shape in zip(("query", "key", "value"), shapes)]
    output = Operand("output", (batch, heads, queries, 64), dtype)
    return Layer("scaled_dot_product_attention", tuple(operands), (output,), tuple(sorted(arguments.items())))


def test_heads_that_share_keys_are_queries_of_one_where_each_has_one():
    halves, floats = (sizes(attended(2, 32, 1, 512, 8, x, enable_gqa=True)) for x in ("float16", "float32"))
    assert (halves["batches"], halves["m"], halves["heads_per_kv"]) == (2 * 8, 4, 4)
    assert (floats["batches"], floats["m"]) == (2 * 32, 1), "flash attention is of numbers of two bytes"
    many = sizes(attended(2, 32, 5, 512, 8, "float16", enable_gqa=True))
    assert (many["batches"], many["m"]) == (2 * 32, 5)


def test_flash_attention_knows_no_mask_and_heads_of_whole_eights():
    masked = attended(2, 32, 1, 512, 8, "float16", enable_gqa=True)
    masked = replace(masked, inputs=(*masked.inputs, Operand("attn_mask", (2, 1, 1, 512), "bool")))
    assert sizes(masked)["m"] == 1
    none = attended(2, 0, 1, 64, 0, "float16")
    assert np.isfinite(featurise(Columns([none, masked], A30))).all(), "no heads divide nothing"


def test_tiles_that_a_causal_mask_hides_are_left_out():
    shapes = [(2048, 2048), (128, 2048), (2048, 128), (16, 16)]
    keys = [0.5 * Columns([attended(1, 4, m, n, 4, "float16", is_causal=True)], A30).product[2][0] for m, n in shapes]
    assert keys == [1024 + 32, 64 + 32, 128, 16], "half of what a square has, and half a tile"
    assert Columns([attended(1, 4, 2048, 2048, 4, "float16")], A30).product[2][0] == 2 * 2048


def test_tiles_and_waves_by_hand():
    columns = Columns([square(256, 256), square(257, 100), PRODUCTS["bmm"][0]], A30)
    assert columns.tiles(128, 128).tolist() == [4, 3, 5]
    assert columns.tiles(64, 32).tolist() == [4 * 8, 5 * 4, 5]
    assert columns.waves(128, 128).tolist() == [4 / 56, 3 / 56, 5 / 56]


def test_fills_by_hand():
    full, over = square(128 * 56, 128), square(128 * 56 + 1, 129)
    assert feature("wave_fill_128", full) == 1.0
    assert feature("wave_fill_128", over) == pytest.approx(57 * 2 / (3 * 56))
    assert feature("m_filled_128", full) == 1.0
    assert feature("m_filled_128", over) == pytest.approx((128 * 56 + 1) / (128 * 57))
    assert feature("n_filled_64", over) == pytest.approx(129 / 192)
    assert feature("k_aligned", square(8, 8, 12)) == 0.75
    assert feature("wave_fill_128", square(1, 1)) == pytest.approx(1 / 56)


def test_the_roofline_by_hand():
    compute_bound, memory_bound = square(4096, 4096, 4096), Layer("relu", (op("self", 1 << 24),), (op("output", 1 << 24),))
    columns = Columns([compute_bound, memory_bound], A30)
    assert columns.compute_s()[0] == pytest.approx(2 * 4096**3 / 10.3e12)
    assert columns.memory_s()[1] == pytest.approx(2 * 4 * 2**24 / 933e9)
    assert columns.roofline_s() == pytest.approx([columns.compute_s()[0] + 4e-6, columns.memory_s()[1] + 4e-6])


def test_tf32_raises_the_peak_where_the_device_has_it():
    conv = PRODUCTS["strided conv"][0].with_tf32("none")
    pair = [conv, conv.with_tf32("conv")]
    assert Columns(pair, A30).peak_flop_per_s.tolist() == [10.3e12, 82e12]
    assert Columns(pair, A30).tensor_core.tolist() == [0, 1]
    image, depthwise = (PRODUCTS[name][0].with_tf32("conv") for name in ("conv", "depthwise conv"))
    assert Columns([image, depthwise], A30).peak_flop_per_s.tolist() == [10.3e12] * 2
    assert Columns([image, depthwise], A30).tensor_core.tolist() == [0, 0]
    turing = Columns(pair, HARDWARE["rtx2080ti"])
    assert turing.peak_flop_per_s.tolist() == [13.45e12] * 2
    assert turing.tensor_core.tolist() == [0, 0]


def test_products_of_float64_run_at_their_own_rate():
    double = Layer(
        "mm", tuple(op(x, 512, 512, dtype="float64") for x in ("self", "mat2")), (op("output", 512, 512, dtype="float64"),)
    )
    columns = Columns([double], HARDWARE["rtx4090"])
    assert columns.compute_s() == pytest.approx(2 * 512**3 / (82.6e12 / 64), rel=0.01)
    assert columns.tensor_core.tolist() == [0]


def test_products_of_bytes_run_at_the_rate_of_int8():
    multiplied = [
        Layer(kind, (op("self", 64, 64, dtype=dtype), op("mat2", 64, 64, dtype=dtype)), (op("output", 64, 64, dtype=out),))
        for kind, dtype, out in (("_int_mm", "int8", "int32"), ("_scaled_mm", "float8_e4m3fn", "bfloat16"))
    ]
    assert Columns(multiplied, HARDWARE["h100-sxm"]).compute_s().tolist() == [2 * 64**3 / 1978.9e12] * 2


def test_bilinear_products_by_hand():
    """What each second input adds, a multiply-add an output feature, is left out of the products."""
    bilinear = sizes(trace(nn.Bilinear(5, 6, 7), torch.empty(3, 5), torch.empty(3, 6)).layers[0])
    assert [bilinear[x] for x in ("batches", "m", "n", "k")] == [7, 3, 6, 5]


def test_only_products_reach_the_tensor_cores():
    half = [replace(x, inputs=tuple(replace(y, dtype="float16") for y in x.inputs)) for x in (square(64, 64), EMPTY[4])]
    seconds = Columns(half, A30).compute_s()
    assert seconds.tolist() == [2 * 64**3 / 165e12, 1 / 10.3e12]


def test_equal_layers_have_equal_features_wherever_they_are():
    table = featurise(Columns([ALL_LAYERS[0], ALL_LAYERS[5], ALL_LAYERS[0]], A30))
    assert np.array_equal(table[0], table[2])
    assert not np.array_equal(table[0], table[1])
