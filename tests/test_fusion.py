"""Compiled mode: which layers are fused, what that does to bytes and FLOP, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import networks
import pytest
import torch
from torch import nn

import wattlayer as wl
from wattlayer.errors import InputError
from wattlayer.trace.folding import folded, with_bias
from wattlayer.trace.fusion import FOLDED, FUSED, NO_GAPS, fuse
from wattlayer.trace.rewrite import trace_as


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x):
        return torch.relu(self.second(self.first(x)) + x)


def kinds(trace):
    return [x.argument("of", x.kind) for x in trace.layers]


def test_batch_norms_cost_nothing_and_the_residual_is_one_layer():
    trace = fuse(wl.trace(Residual().eval(), torch.empty(2, 8, 16, 16)))
    assert kinds(trace) == ["conv2d", "relu", "conv2d", "add relu"]
    fused, image = trace.layers[-1], 2 * 8 * 16 * 16
    assert (fused.read_bytes, fused.write_bytes, fused.flop) == (2 * 4 * image, 4 * image, 2 * image)
    assert not any(x.operand("bias") for x in trace.layers), "what reads the convolution adds it"


def test_a_bias_goes_to_the_kernel_after_its_convolution_or_stays_a_pass_of_its_own():
    def biases(*after):
        net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), *after).eval()
        trace = fuse(wl.trace(net, torch.empty(2, 8, 16, 16)))
        assert [len(x) for x in trace.flow.reads] == [len(x.inputs) for x in trace.layers]
        return [x.operand("bias") is not None for x in trace.layers if x.group == "conv"]

    assert biases(nn.ReLU()) == [False]
    assert biases(nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 1)) == [False, True], "the last one's is added in memory"
    assert biases(nn.Conv2d(8, 8, 1), nn.ReLU()) == [True, False], "a library reads it next"
    assert biases(nn.MaxPool2d(2)) == [True], "and so do windows"


@pytest.mark.parametrize("other", [lambda conv, x: x, lambda conv, x: conv(x), lambda conv, x: nn.functional.max_pool2d(x, 2)])
def test_a_bias_stays_where_the_convolution_is_read_from_memory_as_well(other):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)

        def forward(self, x):
            x = self.first(x)
            return other(self.second, x), x.relu()

    trace = fuse(wl.trace(Both().eval(), torch.empty(2, 8, 16, 16)))
    assert trace.layers[0].operand("bias") is not None


def test_compiling_saves_where_batch_norms_follow_convolutions():
    """On a GPU a bias of its own would cost as much as the norm that it came of."""
    estimate = wl.predict(Residual().eval(), torch.empty(64, 8, 64, 64), mode="compiled")
    convolutions = [sum(e.layer_energy_j[i] for i, x in enumerate(e.trace.layers) if x.group == "conv")
                    for e in (estimate, estimate.unfused)]  # fmt: skip
    assert convolutions[0] == pytest.approx(convolutions[1], rel=1e-12)
    assert estimate.energy_j < estimate.unfused.energy_j


def test_a_batch_norm_in_train_mode_stays():
    trace = wl.trace(Residual(), torch.empty(2, 8, 16, 16), train_mode=True)
    assert len(folded(trace).layers) == len(trace.layers)


class Normed(nn.Module):
    """A convolution and its norm, which nothing but the forward given here keeps apart."""

    def __init__(self, forward):
        super().__init__()
        self.conv, self.norm, self.run = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), forward

    def forward(self, x):
        return self.run(self.conv, self.norm, x)


@pytest.mark.parametrize(
    "forward",
    [
        lambda conv, norm, x: norm(y := conv(x)) + y,
        lambda conv, norm, x: norm(nn.functional.conv2d(x, conv.weight * x.mean())),
    ],
    ids=["its input is read beside it", "the weights are computed"],
)
def test_a_batch_norm_that_does_not_go_into_weights_stays(forward):
    trace = wl.trace(Normed(forward).eval(), torch.empty(2, 8, 16, 16))
    assert "batch_norm" in kinds(trace) and kinds(folded(trace)) == kinds(trace)
    alone = wl.trace(Normed(lambda conv, norm, x: norm(conv(x))).eval(), torch.empty(2, 8, 16, 16))
    assert kinds(folded(alone)) == ["conv2d"]


def test_what_is_used_before_and_after_a_product_is_not_one_kernel():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(16), nn.Linear(16, 16)

        def forward(self, x):
            for _ in range(3):
                x = x + nn.functional.dropout(self.linear(self.norm(x)), 0.1, self.training)
            return x

    trace = fuse(wl.trace(Block().eval(), torch.empty(4, 16)))
    assert kinds(trace) == ["layer_norm", "linear", "add layer_norm", "linear", "add layer_norm", "linear", "add"]
    assert trace.layers[2].write_bytes == 2 * 4 * 16 * 4  # the sum is read again later, so both are written


def test_halves_of_one_tensor_are_each_read_once():
    class Turn(nn.Module):
        def forward(self, x):
            a, b = x.chunk(2, -1)
            return torch.cat((-b, a), -1) * x

    trace = fuse(wl.trace(Turn(), torch.empty(4, 16)))
    assert kinds(trace) == ["neg cat mul"]
    assert trace.layers[0].read_bytes == trace.layers[0].write_bytes == 4 * 16 * 4


def test_what_the_network_returns_is_written_though_its_own_kernel_alone_reads_it():
    class Both(nn.Module):
        def forward(self, x):
            a = x.relu()
            return a, a.sigmoid()

    (fused,) = fuse(wl.trace(Both(), torch.empty(4, 16))).layers
    assert fused.kind == "fused" and fused.write_bytes == 2 * 4 * 16 * 4


def test_what_is_broadcast_is_computed_where_it_is_read_unless_others_read_it_too():
    class Scaled(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.linear, self.shared = nn.Linear(16, 16), shared

        def forward(self, x, y):
            a = y.relu()
            return x * a, self.linear(a if self.shared else y)

    alone, shared = (fuse(wl.trace(Scaled(x).eval(), torch.empty(4, 16), torch.empty(16))) for x in (False, True))
    assert sorted(kinds(alone)) == ["linear", "relu mul"]
    assert kinds(shared)[0] == "relu" and sorted(kinds(shared)) == ["linear", "mul", "relu"]


def test_fusing_keeps_flop_saves_bytes_and_shows_both_answers():
    estimate = wl.predict(Residual().eval(), torch.empty(8, 8, 64, 64), mode="compiled")
    assert estimate.unfused is not None
    assert estimate.mode == "compiled" and estimate.unfused.mode == "graph"
    assert estimate.trace.write_bytes < estimate.unfused.trace.write_bytes
    assert estimate.gap_energy_j == 0.0
    record = estimate.to_json()
    assert record["unfused"]["total"]["energy_j"] == estimate.unfused.energy_j
    assert sum(x["energy_j"] for x in record["layers"]) == pytest.approx(record["total"]["energy_j"])


def test_a_trace_that_does_not_say_what_feeds_what_is_refused():
    trace = replace(wl.trace(Residual().eval(), torch.empty(2, 8, 16, 16)), flow=None)
    with pytest.raises(InputError, match="which layer feeds which"):
        wl.estimate(trace, wl.load_model("a30"), mode="compiled")


def test_one_network_keeps_its_flow_when_calls_are_remembered():
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 8), nn.Dropout(), nn.ReLU()).eval()
    plain, cached = (wl.trace(net, torch.empty(2, 8), cached=c) for c in (False, True))
    assert kinds(fuse(plain)) == kinds(fuse(cached))
    assert plain.flow == wl.trace(net, torch.empty(2, 8), cached=True).flow


def test_int8_holds_the_weights_of_linear_layers_in_a_byte_each(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 64), nn.ReLU()).eval()
    half, int8 = (wl.predict(net, torch.empty(4, 3, 8, 8), dtype=x) for x in ("float16", "int8"))
    (before,), (after,) = ([x for x in e.trace.layers if x.kind == "linear"] for e in (half, int8))
    assert after.flop == before.flop and after.dtype == "float16"
    assert before.read_bytes - after.read_bytes == 64 * 288 - 2 * 64, "a byte a weight less, a scale an output more"
    assert [x for x in half.trace.layers if x.kind != "linear"] == [x for x in int8.trace.layers if x.kind != "linear"]
    assert any("int8" in x for x in int8.trace.assumptions) and int8.extrapolated_frac > 0
    path = tmp_path / "net.py"
    path.write_text("from torch import nn\n\n\ndef net():\n    return nn.Linear(4096, 4096)\n")
    named = wl.predict(f"{path}:net", input="1x4096", dtype="int8")
    assert named.energy_j < wl.predict(f"{path}:net", input="1x4096", dtype="float16").energy_j
    assert named.trace.dtype == "int8" and named.whatif(batch=1).change_j == pytest.approx(0.0)
    assert named.whatif(dtype="float16").change_j == pytest.approx(
        wl.predict(f"{path}:net", input="1x4096", dtype="float16").energy_j - named.energy_j
    )


def test_int4_holds_two_weights_in_a_byte_and_a_scale_and_zero_point_for_128(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 65)).eval()
    half, int4 = (wl.predict(net, torch.empty(4, 3, 8, 8), dtype=x).trace for x in ("float16", "int4"))
    before, after = half.layers[-1], int4.layers[-1]
    assert (after.kind, after.flop, after.dtype, int4.dtype) == ("linear", before.flop, "float16", "int4")
    read = {x.name: x.size_bytes for x in after.inputs}
    assert read["weight"] == 65 * 288 // 2 and read["scale"] == 65 * 3 * 2 * 2, "three groups of a channel, two numbers each"
    assert before.read_bytes - after.read_bytes == 65 * 288 * 2 - read["weight"] - read["scale"]
    assert half.layers[:-1] == int4.layers[:-1] and any("int4" in x for x in int4.assumptions)
    path = tmp_path / "net.py"
    path.write_text("from torch import nn\n\n\ndef net():\n    return nn.Linear(4096, 4096)\n")
    energy_j = [wl.predict(f"{path}:net", input="1x4096", dtype=x, hardware="a30").energy_j for x in ("float16", "int8", "int4")]
    assert energy_j == sorted(energy_j, reverse=True) and energy_j[2] < 0.9 * energy_j[1]


def test_weights_of_whole_numbers_are_held_as_they_are():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("weight", torch.ones(4, 8, dtype=torch.int64))

        def forward(self, x):
            return nn.functional.linear(x.long(), self.weight)

    (linear,) = (x for x in trace_as("int8", Whole(), torch.empty(2, 8)).layers if x.kind == "linear")
    assert linear.operand("weight").dtype == "int64" and linear.operand("scale") is None


def test_a_changed_trace_no_longer_says_what_feeds_what():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    estimate = wl.predict(net, torch.empty(1, 3, 8, 8))
    with pytest.raises(InputError, match="compiled"):
        estimate.whatif(net, (torch.empty(1, 3, 8, 8),), fuse_attention=True, mode="compiled")


def test_a_compiler_folds_norms_whether_it_is_asked_or_not():
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval(), torch.empty(1, 3, 8, 8)
    graph, compiled = (wl.predict(net, x, mode=mode) for mode in ("graph", "compiled"))
    both = graph.whatif(net, (x,), fold_norm=True, mode="compiled")
    assert both.after.energy_j == compiled.energy_j
    assert compiled.whatif(net, (x,), fold_norm=True).change_j == 0.0


def test_what_a_compiler_must_be_told_is_said():
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Sigmoid()).eval(), torch.empty(1, 3, 8, 8)
    graph, compiled = (wl.predict(net, x, hardware="h200-sxm", mode=mode) for mode in ("graph", "compiled"))
    assert graph.assumptions == compiled.unfused.assumptions == ()
    assert compiled.assumptions == (NO_GAPS, FOLDED, FUSED)
    alone = wl.predict(nn.Linear(8, 8).eval(), torch.empty(1, 8), hardware="h200-sxm", mode="compiled")
    assert alone.assumptions == (NO_GAPS,), "nothing is folded or fused"
    norm_first = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)).eval()
    before = wl.predict(norm_first, x, hardware="h200-sxm", mode="compiled")
    assert before.assumptions == (NO_GAPS,), "a norm before a convolution stays"


def test_a_norm_behind_an_image_without_a_batch_leaves_a_bias_for_each_channel():
    layers = wl.trace(nn.Conv2d(3, 8, 3, bias=False, device="meta").eval(), torch.empty(3, 9, 9, device="meta")).layers
    assert with_bias(layers[0]).operand("bias").shape == (8,)


def test_channels_last_is_recorded_as_strides_and_compiles():
    net = nn.Conv2d(8, 8, 3, padding=1).eval().to(memory_format=torch.channels_last)
    trace = wl.trace(net, torch.empty(2, 8, 16, 16).to(memory_format=torch.channels_last))
    assert trace.layers[0].inputs[0].channels_last
    assert not wl.trace(net, torch.empty(2, 8, 16, 16)).layers[0].inputs[0].channels_last
    assert kinds(fuse(trace)) == ["conv2d"]


def through(forward, *shapes):
    """The kinds that a compiled forward comes to, on floats of these shapes."""
    return kinds(fuse(wl.trace(networks.Runs(forward), *(torch.empty(shape) for shape in shapes))))


def test_a_kernel_holds_64_operators_and_reads_8_tensors_of_a_concatenation():
    long = through(nn.Sequential(*[nn.ReLU()] * 65), (4, 16))
    assert [len(x.split()) for x in long] == [64, 1]
    assert through(lambda x: torch.cat([x] * 8).relu(), (4, 16)) == ["cat relu"]
    assert through(lambda x: torch.cat([x] * 9).relu(), (4, 16)) == ["cat", "relu"]


@pytest.mark.parametrize(
    ("normalise", "rows"),
    [
        (nn.GroupNorm(4, 8), 2 * 4),
        (nn.InstanceNorm2d(8), 2 * 8),
        (nn.LayerNorm((4, 4)), 2 * 8),
        (nn.LayerNorm(4), 2 * 8 * 4),
        (nn.Softmax(-1), 2 * 8 * 4),
    ],
    ids=repr,
)
def test_two_reductions_are_one_kernel_where_they_have_the_same_rows(normalise, rows):
    def summed(count):
        return through(lambda x: normalise(x).reshape(count, -1).sum(-1), (2, 8, 4, 4))

    assert len(summed(rows)) == 1 and len(summed(2 * rows)) == 2


def test_rows_of_a_softmax_are_along_its_own_axis_and_as_long():
    assert through(lambda x: x.softmax(0).sum(0), (4, 16)) == ["softmax sum"]
    assert through(lambda x: x.softmax(0).sum(1), (4, 16)) == ["softmax", "sum"]
    assert through(lambda x: x.softmax(1)[:, :8].sum(1), (4, 16)) == ["softmax", "sum"], "as many rows, each half as long"


def test_what_scales_rows_joins_their_kernel_though_a_library_reads_it_as_well():
    weight = nn.Linear(4, 4).weight

    def forward(x, y):
        y = y.relu()
        return x.softmax(-1) * y[:, None], nn.functional.linear(y, weight)

    assert sorted(through(forward, (4, 16), (4,))) == ["linear", "relu softmax mul"]


def test_pooling_reads_memory_unless_it_is_a_mean_and_what_follows_joins_it():
    image = (2, 8, 4, 4)
    assert through(nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.ReLU()), image) == ["relu", "max_pool2d relu"]
    mean = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Sigmoid())
    assert through(mean, image) == ["relu adaptive_avg_pool2d sigmoid"]
    windows = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    assert through(windows, image) == ["relu", "adaptive_avg_pool2d"]


@pytest.mark.parametrize(
    ("call", "kind"), [(lambda x: x.cumsum(0), "cumsum"), (lambda x: torch.linalg.cross(x, x), "linalg_cross")]
)
def test_scans_and_what_has_another_domain_stay_calls_of_their_own(call, kind):
    assert through(lambda x: call(x.relu()), (4, 3)) == ["relu", kind]


def test_a_kernel_reads_of_a_table_what_it_takes():
    net, ids = nn.Sequential(nn.Embedding(1000, 16), nn.ReLU()), torch.zeros(4, dtype=torch.int64)
    (fused,) = fuse(wl.trace(net, ids)).layers
    assert fused.read_bytes == 4 * 16 * 4 + 4 * 8, "four rows of floats and four indices"


def test_parts_of_a_tensor_are_read_as_often_as_they_are_apart():
    def read_bytes(forward):
        (fused,) = fuse(wl.trace(networks.Runs(forward), torch.empty(4, 16))).layers
        return fused.read_bytes

    assert read_bytes(lambda x: x[:2].relu() * x[2:]) == 4 * 16 * 4, "two halves that do not overlap"
    assert read_bytes(lambda x: x[:1].relu() + x) == 4 * 16 * 4, "the first row is of the whole"
    assert read_bytes(lambda x: x[1:2].relu() + x[:2]) == 2 * 16 * 4, "so is one behind it, up to its end"
    assert read_bytes(lambda x: x[:3].relu() * x[1:]) == 4 * 16 * 4, "two that overlap cover all four rows"
    assert read_bytes(lambda x: torch.cat([x[2:], x[1:3], x[:2]]).relu()) == 4 * 16 * 4, "in whatever order"
    assert read_bytes(lambda x: torch.cat([x[:1], x[2:3], x[3:]]).relu()) == 3 * 16 * 4, "one row is read by none"
    assert read_bytes(lambda x: x[:2, :8].relu() + x[1:3, :8]) == 2 * 2 * 8 * 4, "columns of rows are no stretch: each in full"
    assert read_bytes(lambda x: x[:2].relu() * x[2:] * x[1:3, :1]) == 4 * 16 * 4, "a column of two parts that touch"
    assert read_bytes(lambda x: x.relu() * x[:, :1]) == 4 * 16 * 4, "a column of what is read whole"
    assert read_bytes(lambda x: x[:2].relu() * x[:2, :1] * x[2:, 1:2]) == (2 * 16 + 2) * 4, "a column of other rows"


def test_what_nobody_is_seen_to_read_is_written():
    def forward(x):
        x = x.relu()
        x.exp()
        return x

    (fused,) = fuse(wl.trace(networks.Runs(forward), torch.empty(4, 16))).layers
    assert fused.argument("of") == "relu exp" and fused.write_bytes == 2 * 4 * 16 * 4


def test_a_kernel_is_named_by_its_last_call():
    trace = fuse(wl.trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sigmoid()), torch.empty(2, 4)))
    assert trace.paths == ("0", "2")


def test_a_batch_norm_stays_where_the_network_returns_what_it_reads():
    trace = wl.trace(Normed(lambda conv, norm, x: (y := conv(x), norm(y))).eval(), torch.empty(2, 8, 16, 16))
    assert kinds(folded(trace)) == ["conv2d", "batch_norm"]


def test_a_kernel_runs_once_all_that_it_reads_is_there():
    weight = nn.Linear(16, 16).weight
    assert through(lambda x: x.relu() * nn.functional.linear(x, weight), (4, 16)) == ["linear", "relu mul"]


def test_a_kernel_is_as_large_as_its_largest_call():
    """What was broadcast into it does not make it smaller than what follows."""
    weight = nn.Linear(16, 16).weight

    def forward(x, y):
        x = x * y.relu()
        return x.exp(), nn.functional.linear(x, weight)

    assert sorted(through(forward, (4, 16), (16,))) == ["linear", "relu mul exp"]
