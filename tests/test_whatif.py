"""What a change saves: edits of modules and traces, the interval of a difference, and advice that holds."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import needs_torchvision
from networks import SharedActivation
from test_cli import network, one_line  # noqa: F401  (fixtures)
from torch import nn

import wattlayer as wl
from wattlayer.adapters.torchvision import import_torchvision
from wattlayer.cli.output import rendered
from wattlayer.cli.whatif import batches
from wattlayer.errors import InputError
from wattlayer.estimate import LAUNCH_BOUND, TOO_LARGE, UNSTATED, estimate
from wattlayer.model import load_model
from wattlayer.model.launches import Launches
from wattlayer.report.whatif import advice_list, advice_table, change_csv, change_list, change_table, no_advice
from wattlayer.trace import trace
from wattlayer.trace.folding import folded
from wattlayer.trace.rewrite import aligned, fused
from wattlayer.whatif import Change, _biases_j, _differences, change, whatif
from wattlayer.whatif.advise import Advice, advise
from wattlayer.whatif.difference import apart_frac, gap_spread_j, spread_j
from wattlayer.whatif.edits import edited
from wattlayer.whatif.operating import operated
from wattlayer.whatif.subject import Edit, Setting, Subject


class Net(nn.Module):
    """Convolutions with norms, three equal blocks and attention by hand."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.SiLU()) for _ in range(3)))
        self.head = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.norm(self.stem(x))).flatten(2).transpose(1, 2)
        scores = torch.matmul(x, x.transpose(1, 2)) * 0.1
        return self.head(torch.matmul(scores.softmax(-1), x))


INPUT = torch.empty(4, 3, 16, 16, device="meta")


def net(width: int = 20) -> Net:
    with torch.device("meta"):
        return Net(width).eval()


def kinds(traced: wl.Trace) -> list[str]:
    return [x.kind for x in traced.layers]


# --- edits


def test_a_convolution_becomes_depthwise_and_pointwise_with_the_flop_that_mobilenets_state():
    module = net()
    conv = trace(module, INPUT).layers[0]
    after = [x for x in trace(edited(module, [("stem", "depthwise")], []), INPUT).layers if x.kind == "conv2d"][:2]
    assert [x.argument("groups", 1) for x in after] == [3, 1]
    assert sum(x.flop for x in after) / conv.flop == pytest.approx(1 / 20 + 1 / 9)  # Howard et al. 2017, equation 5
    assert isinstance(module.stem, nn.Conv2d), "the given network is never changed"


def test_recipes_apply_where_they_fit_and_only_there():
    module = edited(net(64), [("blocks.1", "relu"), ("head", "lowrank")], [])
    assert [type(x[1]).__name__ for x in module.blocks] == ["SiLU", "ReLU", "SiLU"]
    assert [tuple(x.weight.shape) for x in module.head] == [(16, 64), (64, 16)]
    with pytest.raises(InputError, match="none that lowrank applies to"):
        edited(net(), [("stem", "lowrank")], [])
    with pytest.raises(InputError, match=r"blocks\.0"):
        edited(net(), [("block.0", "relu")], [])
    with pytest.raises(InputError, match="depthwise"):
        edited(net(), [("stem", "deepwise")], [])


@pytest.mark.parametrize(
    ("replace", "drop", "left"),
    [([("*", "relu")], [], {"relu": 3}), ([("blocks.1", "relu")], [], {"gelu": 1, "relu": 2}), ([], ["blocks.?.1"], {})],
    ids=["everywhere", "in one block", "dropped"],
)
def test_an_activation_that_blocks_share_changes_in_each_that_is_named(replace, drop, left):
    after = kinds(trace(edited(SharedActivation().eval(), replace, drop), torch.empty(2, 8)))
    assert {kind: after.count(kind) for kind in ("gelu", "relu") if kind in after} == left


def test_what_blocks_share_stays_shared_once_replaced():
    shared = nn.Linear(64, 64)
    after = edited(nn.Sequential(nn.Sequential(shared), nn.Sequential(shared)).eval(), [("*", "lowrank")], [])
    assert after[0][0] is after[1][0] and sum(x.numel() for x in after.parameters()) == 2 * 64 * 16 + 64


def test_a_dropped_block_is_gone_and_one_that_changes_shapes_says_so():
    before, after = trace(net(), INPUT), Subject(net(), (INPUT,)).trace(Edit(drop=("blocks.1",)))
    assert [p for p in before.paths if not p.startswith("blocks.1")] == list(after.paths)
    with pytest.raises(InputError, match="after --drop 'stem' the network does not run"):
        Subject(net(), (INPUT,)).trace(Edit(drop=("stem",)))


def test_edits_of_a_trace_equal_networks_built_so():
    assert folded(trace(net(), INPUT)).layers == trace(_folded_by_hand(), INPUT).layers
    assert aligned(trace(net(20), INPUT)).layers == trace(net(24), INPUT).layers
    assert aligned(trace(net(24), INPUT)).layers == trace(net(24), INPUT).layers


class Turned(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda n: [nn.Conv1d(16, n, 3, padding=1), nn.BatchNorm1d(n), nn.ReLU(), nn.Conv1d(n, 32, 3)], (4, 16, 20)),
        (lambda n: [nn.Linear(16, n), nn.GELU(), nn.LayerNorm(n), nn.Linear(n, 16)], (4, 20, 12, 16)),
        (lambda n: [nn.Conv2d(16, n, 3), nn.ReLU(), nn.ConvTranspose2d(n, 8, 2)], (16, 12, 12)),
        (lambda n: [nn.Conv2d(16, n, 3), nn.LayerNorm([n, 10, 10]), nn.GELU(), nn.Conv2d(n, 8, 1)], (4, 16, 12, 12)),
        (lambda n: [nn.Conv1d(8, n, 3, padding=1), Turned(), nn.Linear(n, n)], (2, 8, 20)),
        (lambda n: [nn.Conv2d(16, n, 1), nn.Conv2d(n, n, 3, groups=n), nn.Conv2d(n, 8, 1)], (4, 16, 12, 12)),
    ],
    ids=["sound", "windows of an image, channels last", "one image without a batch", "norm of whole images", "as long as wide",
         "depthwise"],
)  # fmt: skip
def test_channels_are_padded_on_the_axis_that_layers_beside_them_say(build, shape):
    with torch.device("meta"):
        odd, even, x = nn.Sequential(*build(20)).eval(), nn.Sequential(*build(24)).eval(), torch.empty(shape)
    assert aligned(trace(odd, x)).layers == trace(even, x).layers


def _folded_by_hand() -> Net:
    module = net()
    module.stem, module.norm = nn.Conv2d(3, 20, 3, padding=1, device="meta"), nn.Identity()
    return module


def test_attention_by_hand_becomes_one_layer_of_the_same_flop():
    before = trace(net(), INPUT)
    after = fused(before)
    assert kinds(before).count("matmul") + kinds(before).count("bmm") == 2
    assert [k for k in kinds(after) if k in ("matmul", "bmm", "softmax", "mul")] == []
    attention = next(x for x in after.layers if x.group == "attention")
    assert attention.flop == sum(x.flop for x in before.layers if x.kind in ("matmul", "bmm"))
    assert len(after.layers) == len(after.paths)


class Squared(nn.Module):
    """A product of rows with themselves, after which come element-wise calls."""

    def __init__(self, scaled: int = 0, rows: int | None = None) -> None:
        super().__init__()
        self.scaled, self.rows = scaled, rows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, : self.rows] @ x.mT
        for _ in range(self.scaled):
            x = x * 2
        return x


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x * 2) * 2) * 2


def test_attention_by_hand_is_named_by_its_first_product_and_keeps_its_arithmetic():
    chain, x = nn.Sequential(Squared(), nn.Softmax(-1), Squared()).eval(), torch.empty(2, 4, 8)
    after = fused(trace(chain, x, tf32="all"))
    assert (kinds(after), after.paths) == (["scaled_dot_product_attention"], ("0",))
    assert [(x.name, x.shape) for x in after.layers[0].inputs] == [("query", (2, 4, 8)), ("key", (2, 4, 8)), ("value", (2, 4, 4))]
    assert after.layers[0].tf32 and not fused(trace(chain, x, tf32="none")).layers[0].tf32


def test_attention_by_hand_is_one_layer_with_what_is_scaled_within_if_all_of_it_is_used():
    x = torch.empty(2, 4, 8)
    long = nn.Sequential(Squared(scaled=4), nn.Softmax(-1), Scaled(), Squared()).eval()
    assert kinds(fused(trace(long, x))) == ["scaled_dot_product_attention"]
    part = trace(nn.Sequential(Squared(), nn.Softmax(-1), Squared(rows=2)).eval(), x)
    assert fused(part) == part


def test_norms_that_take_statistics_of_their_input_or_read_another_shape_are_not_folded():
    of_input = trace(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)).eval(), torch.empty(2, 3, 8, 8)
    )
    flat, long = (
        trace(
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.BatchNorm1d(8 * edge**2)).eval(),
            torch.empty(2, 3, edge + 2, edge + 2),
        )
        for edge in (1, 4)
    )
    turned = trace(OfRows().eval(), torch.empty(2, 3, 10, 10))
    for stays in (of_input, flat, long, turned):
        assert kinds(stays) == kinds(folded(stays)) == ["conv2d", "batch_norm"]
    images = torch.empty(2, 3, 10, 10).to(memory_format=torch.channels_last)
    assert kinds(folded(trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), images))) == ["conv2d"]


class OfRows(nn.Module):
    """Norms the rows of an image, as many as it has channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x).transpose(1, 2))


def test_a_padded_image_of_one_row_keeps_its_channels_last():
    """Its rows and images have equal strides, and of these the row is the inner one."""
    odd, even = (
        trace(nn.Conv2d(n, 8, 1).eval(), torch.empty(4, n, 1, 12).to(memory_format=torch.channels_last)) for n in (20, 24)
    )
    assert odd.layers[0].inputs[0].strides == (12 * 20, 1, 12 * 20, 20)
    assert aligned(odd).layers == even.layers


def test_a_chain_without_softmax_stays():
    traced = trace(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval(), torch.empty(2, 8))
    assert fused(traced) == traced == folded(traced)


# --- the difference and its interval


def changed(model: wl.EnergyModel, edit: Edit) -> Change:
    return whatif(Subject(net(), (INPUT,)), [edit], model)[0]


def test_nothing_changed_is_nothing_with_no_width(model):
    before = wl.predict(net(), INPUT, hardware=model)
    same = change(before, wl.predict(net(), INPUT, hardware=model))
    assert (same.change_j, same.interval_j) == (0.0, (0.0, 0.0))
    assert not same.certain


def test_what_did_not_change_adds_no_width(model):
    dropped = changed(model, Edit(drop=("blocks.1",)))
    gone = [i for i, p in enumerate(dropped.before.trace.paths) if p.startswith("blocks.1")]
    e = dropped.before
    assert dropped.change_j * 4 == pytest.approx(-e.layer_energy_j[gone].sum())
    assert dropped.interval_j[0] * 4 >= -e.layer_high_j[gone].sum() * (1 + 1e-9)
    assert dropped.interval_j[1] * 4 <= -e.layer_low_j[gone].sum() * (1 - 1e-9)
    assert dropped.certain


def test_the_interval_of_a_difference_holds_as_often_as_it_says(model):
    """Errors drawn by the documented rule: shared and own parts of each layer's log energy."""
    result = changed(model, Edit(replace=(("blocks.*", "depthwise"),), drop=("norm",)))
    random, rho, held = np.random.default_rng(0), model.metadata.conformal.correlation, []
    distinct = list(dict.fromkeys((*result.before.trace.layers, *result.after.trace.layers)))
    for _ in range(2000):
        shared, own = random.standard_normal(), dict(zip(distinct, random.standard_normal(len(distinct))))
        true_j = [
            sum(
                e * np.exp(np.log(high / e) / 1.645 * (np.sqrt(rho) * shared + np.sqrt(1 - rho) * own[x]))
                for x, e, high in zip(s.trace.layers, s.layer_energy_j, s.layer_high_j)
            )
            / s.trace.batch
            for s in (result.before, result.after)
        ]
        held.append(result.interval_j[0] <= true_j[1] - true_j[0] <= result.interval_j[1])
    assert 0.87 <= np.mean(held) <= 0.99


@pytest.mark.parametrize("alike", ["all", "of one group"])
def test_what_errs_apart_does_not_cancel(alike):
    """Forty layers give way to forty of another group: errors shared by all cancel, those of a group do not."""
    random, rho, groups = np.random.default_rng(0), 0.6, ["conv"] * 40 + ["matmul"] * 40
    difference_j, width = np.repeat([-1.0, 1.1], 40), np.full(80, 0.2)
    below, above = spread_j(difference_j, width, width, groups, rho)
    draws = random.standard_normal((4000, 1 if alike == "all" else 2))
    shared = np.repeat(draws, 80 // draws.shape[1], axis=1)
    log = 0.2 / 1.645 * (np.sqrt(rho) * shared + np.sqrt(1 - rho) * random.standard_normal((4000, 80)))
    off_j = (difference_j * log).sum(axis=1)
    held = np.mean((-below <= off_j) & (off_j <= above))
    assert held == 1.0 if alike == "all" else held == pytest.approx(0.9, abs=0.02)


def test_what_the_less_sure_side_has_beyond_the_other_is_its_own():
    width = np.array([0.3, 0.1])
    below_above = spread_j(np.array([1.0, -1.0]), width, width, ["conv", "conv"], 1.0)
    assert below_above == pytest.approx((0.2, 0.2)), "a tenth errs alike on both and cancels, of the 0.3 the rest does not"


def test_it_is_narrower_than_two_estimates_taken_apart(model):
    result = changed(model, Edit(drop=("blocks.1",)))
    apart = sum((e.interval_j[1] - e.interval_j[0]) / 4 for e in (result.before, result.after))
    assert result.interval_j[1] - result.interval_j[0] < 0.6 * apart


def test_a_change_of_mode_is_as_unsure_as_the_launch_gaps(model):
    told = model.with_launches(Launches({"conv2d": 1e-4, "*": 2e-4}, idle_w=100.0, spread_frac=0.2, mode_spread_frac=0.0))
    graph, eager = (wl.predict(net(), INPUT, hardware=told, mode=mode) for mode in ("graph", "eager"))
    fast_j, slow_j = (x / 4 for x in eager.gap_interval_j)
    to, back = graph.whatif(net(), (INPUT,), mode="eager", hardware=told), change(eager, graph)
    assert (to.change_j, back.change_j) == pytest.approx((eager.gap_energy_j / 4, -eager.gap_energy_j / 4))
    assert to.interval_j == pytest.approx((fast_j, slow_j)) and back.interval_j == pytest.approx((-slow_j, -fast_j))
    assert change(eager, eager).interval_j == (0.0, 0.0), "the same gaps err alike"


def test_a_difference_is_as_unsure_as_the_sums_of_layers_that_it_lies_between(model):
    told = model.with_launches(Launches(sum_spread_frac=0.5))
    plain, unsure = (changed(x, Edit(drop=("blocks.1",))) for x in (model, told))
    assert plain.change_j == pytest.approx(unsure.change_j)
    for side in (0, 1):
        width = unsure.interval_j[side] - unsure.change_j
        assert abs(width) == pytest.approx(np.hypot(plain.interval_j[side] - plain.change_j, 0.5 * plain.change_j))


def test_a_pass_may_change_between_modes_by_more_than_its_gaps(model):
    """What keeps the device busy would else surely not change."""
    for share in (0.0, 0.1):
        told = model.with_launches(Launches({"*": 1e-12}, idle_w=100.0, mode_spread_frac=share))
        graph, eager = (wl.predict(net(), INPUT, hardware=told, mode=mode) for mode in ("graph", "eager"))
        for low, high in (change(graph, eager).interval_j, change(eager, graph).interval_j):
            assert (high - low) / 2 == pytest.approx(share * graph.energy_per_sample_j, rel=1e-3, abs=1e-9 * graph.energy_j)
        assert change(eager, eager).interval_j == (0.0, 0.0)
    slow = model.with_launches(Launches({"*": 1e-3}, idle_w=50.0, spread_frac=0.0, mode_spread_frac=0.1))
    graph, eager = (wl.predict(net(), INPUT, hardware=slow, mode=mode) for mode in ("graph", "eager"))
    assert eager.energy_per_sample_j > 2 * graph.energy_per_sample_j
    for moved in (change(graph, eager), change(eager, graph)):
        above_j = moved.interval_j[1] - moved.change_j
        assert above_j == pytest.approx(0.1 * eager.energy_per_sample_j), "a share of the dearer one"


def test_compiling_is_no_change_between_graph_and_eager_mode(model):
    def interval_j(share: float) -> tuple[float, float]:
        told = model.with_launches(Launches(mode_spread_frac=share))
        return change(*(wl.predict(net(), INPUT, hardware=told, mode=mode) for mode in ("graph", "compiled"))).interval_j

    assert interval_j(0.5) == interval_j(0.0)


def test_gaps_of_other_operators_are_unsure_on_both_sides():
    before, after = (2.0, 1.0, 4.0), (3.0, 1.5, 6.0)
    alike = gap_spread_j(before, after)
    assert alike == gap_spread_j(before, after, 0.0) == pytest.approx((0.5, 1.0))
    assert gap_spread_j(before, after, 1.0) == pytest.approx(
        (np.hypot(0.5, np.hypot(1.5, 2.0)), np.hypot(1.0, np.hypot(3.0, 1.0)))
    )
    kinds = Counter({"conv2d": 3, "relu": 1})
    assert (
        apart_frac(kinds, kinds) == 0.0
        and apart_frac(kinds, Counter(linear=1)) == 1.0
        and apart_frac(Counter(), Counter()) == 0.0
    )
    assert apart_frac(kinds, Counter({"conv2d": 2, "relu": 2})) == pytest.approx(1 - 3 / 5)


def test_gaps_that_shrink_with_the_batch_widen_the_interval(model):
    before, after = (wl.predict(net(), torch.empty(n, 3, 16, 16, device="meta"), hardware=model, mode="eager") for n in (4, 8))
    low, high = change(before, after).interval_j
    ends = zip(before.gap_interval_j, after.gap_interval_j)
    more, less = ((b - after.gap_energy_j) / 8 - (a - before.gap_energy_j) / 4 for a, b in ends)
    assert less < 0 < more, "a faster host shortens the longer gaps by more"
    below, above = spread_j(*_differences(before, after), model.metadata.conformal.correlation)
    assert (high - low) == pytest.approx(np.hypot(below, less) + np.hypot(above, more))


def test_what_biases_add_to_convolutions_may_be_off_by_all_of_it(model):
    """Hardly any convolution was measured with and without one: folding norms is not told from no change by that alone."""
    conv = [nn.Sequential(nn.Conv2d(3, 8, 3, bias=bias), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval() for bias in (False, True)]
    bare, biased = (wl.predict(x, INPUT, hardware=model) for x in conv)
    low, high = change(bare, biased).interval_j
    added_j = (biased.layer_energy_j[0] - bare.layer_energy_j[0]) / bare.trace.batch
    (below, above), moved_j = spread_j(*_differences(bare, biased), model.metadata.conformal.correlation), high - added_j
    assert added_j > 0, "a kernel of its own"
    assert moved_j == pytest.approx(np.hypot(above, added_j), rel=0.02) and moved_j > above
    assert added_j - low == pytest.approx(np.hypot(below, added_j), rel=0.02)
    assert low <= 0 <= high
    alike = [nn.Conv2d(3, 3, 3, padding=1, bias=bias).eval() for bias in (False, True)]
    both, one = (wl.predict(nn.Sequential(*x), INPUT, hardware=model) for x in (alike, alike[:1]))
    assert _biases_j(both, one) == 0.0, "what is dropped whole loses no bias"
    assert _biases_j(bare, biased) == _biases_j(biased, bare) == pytest.approx(added_j)
    same = change(biased, replace(biased)).interval_j
    assert same == (0.0, 0.0), "what both have cancels"


def test_what_lies_far_from_what_was_measured_is_not_like_it(model):
    graph = wl.predict(net(24), INPUT, hardware=model)
    far = np.arange(len(graph.layer_energy_j)) == 0
    after = replace(graph, covered=np.ones_like(far), extrapolated=far)
    energy_j = graph.layer_energy_j
    assert change(graph, after).measured_frac == pytest.approx(1 - energy_j[0] / energy_j.sum())


def test_two_models_cannot_be_compared(model):
    before = wl.predict(net(), INPUT, hardware=model)
    with pytest.raises(InputError, match="two models"):
        change(before, replace(before, model_sha256="0"))


def test_a_larger_batch_is_priced_per_sample(model):
    result = changed(model, Edit(batch=64))
    direct = wl.predict(net(), torch.empty(64, 3, 16, 16, device="meta"), hardware=model)
    assert result.after.trace.layers == direct.trace.layers
    assert result.change_j == pytest.approx(direct.energy_j / 64 - result.before.energy_j / 4)


def test_an_estimate_answers_what_if(model):
    before = wl.predict(net(), INPUT, hardware=model)
    result = before.whatif(net(), (INPUT,), dtype="float16", hardware=model)
    assert result.after.energy_j == wl.predict(net(), INPUT, hardware=model, dtype="float16").energy_j
    with pytest.raises(InputError, match="give the module"):
        before.whatif(dtype="float16", hardware=model)
    with pytest.raises(InputError, match="hardware="):
        before.whatif(net(), (INPUT,), dtype="float16")


@pytest.mark.parametrize("mode", ["graph", "compiled"])
@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "int8", "int4"])
def test_an_estimate_knows_again_what_it_was_made_of(model, dtype, mode):
    before = wl.predict(net(), INPUT, hardware=model, dtype=dtype, tf32="none", mode=mode)
    same = before.whatif(net(), (INPUT,), hardware=model)
    assert (same.change_j, same.interval_j) == (0.0, (0.0, 0.0))
    halved = wl.predict(net().half(), INPUT.half(), hardware=model)
    assert halved.whatif(net().half(), (INPUT.half(),), batch=8, hardware=model).after.trace.dtype == "float16"


class Wider(nn.Module):
    """What it runs depends on a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.linear(x) if mask is None else self.linear(x) * mask


def test_keywords_of_the_forward_go_with_the_inputs(model):
    x, kwargs = torch.empty(4, 8), {"mask": torch.empty(4, 1)}
    before = wl.predict(Wider(), x, kwargs=kwargs, hardware=model)
    assert before.whatif(Wider(), (x,), kwargs=kwargs, hardware=model).change_j == 0.0
    after = before.whatif(Wider(), (x,), kwargs=kwargs, batch=16, hardware=model).after
    assert after.trace.layers == wl.trace(Wider(), torch.empty(16, 8), kwargs={"mask": torch.empty(16, 1)}).layers


def test_what_was_not_estimated_is_refused_as_the_start_of_a_change(model):
    x = torch.empty(4, 8)
    before = wl.predict(Wider(), x, kwargs={"mask": x}, hardware=model)
    for module, inputs, reason in (
        (Wider(), (x,), "Wider runs other layers than those estimated"), (nn.Linear(3, 8), (x,), "Linear does not run"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"{reason}.*; give the module, inputs and kwargs of the estimate"):
            before.whatif(module, inputs, dtype="float16", hardware=model)


@needs_torchvision
def test_an_estimate_of_a_named_network_loads_it_again(model):
    before = wl.predict("torchvision:resnet18", hardware=model, batch=2, image_size=64)
    result = before.whatif(batch=8, drop=["layer1.1"], hardware=model)
    assert (result.after.trace.batch, result.after.trace.inputs[0].shape) == (8, (8, 3, 64, 64))
    assert not [p for p in result.after.trace.paths if p.startswith("layer1.1")]
    assert "--drop 'layer1.1' --batch 8" in str(result)


def test_an_estimate_finds_again_whatever_model_its_name_loads(model, home):
    """One made from a data sheet, and one's own in its folder, but not another of the same name."""
    sheet = wl.predict(net(), INPUT, hardware="h100-sxm")
    assert sheet.whatif(net(), (INPUT,), dtype="float16").after.model_sha256 == sheet.model_sha256
    own = wl.predict(net(), INPUT, hardware=model)
    with pytest.raises(
        InputError, match="is not found by its name, say hardware=: no model and no hardware is called 'synthetic'"
    ):
        own.whatif(net(), (INPUT,), dtype="float16")
    (home / "models").mkdir(parents=True, exist_ok=True)
    model.save(home / "models" / "synthetic.json")
    assert own.whatif(net(), (INPUT,), dtype="float16").after.model_sha256 == model.sha256
    load_model("a30").save(home / "models" / "synthetic.json")
    with pytest.raises(InputError, match="'synthetic' of the estimate is not the one that its name loads: say hardware="):
        own.whatif(net(), (INPUT,), dtype="float16")


def test_changes_tell_how_much_of_a_pass_launches_as_measured_are():
    """Of a small network on the A30 nearly all, less of it at a larger batch; on a board measured in graphs nothing."""
    subject = Subject(net(24), (INPUT,))
    edits = [Edit(batch=512), Edit(batch=2)]
    changes = whatif(subject, edits, load_model("a30"))
    shares = [e.launch_bound_frac for e in (changes[0].before, *(x.after for x in changes))]
    assert 0.5 < max(shares) > min(shares)
    most = max(changes, key=lambda x: x.after.launch_bound_frac)
    sides = f"{shares[0]:.0%} before, at most {most.after.launch_bound_frac:.0%} after a change ({most.edit.describe()}),"
    said = LAUNCH_BOUND.format(sides)
    assert changes[0].to_json()["launch_bound_frac"] == shares[:2]
    advice = [Advice(x, "nothing") for x in changes]
    for told in (change_table(changes, ""), change_list(changes, ""), advice_table(advice, ""), advice_list(advice, "")):
        assert str(told[-1]) == said
    assert not any("launch" in str(x) for x in change_table(whatif(subject, edits, load_model("h200-sxm")), ""))


def test_a_change_to_numbers_without_a_stated_rate_says_so():
    subject, board = Subject(net(24), (INPUT,)), load_model("rtx2080ti")
    for dtype in ("float16", "bfloat16"):
        changes = whatif(subject, [Edit(dtype=dtype)], board)
        told = [str(x) for x in (*change_table(changes, ""), *change_list(changes, "")) if "no data sheet states" in str(x)]
        assert len(told) == 2 * (dtype == "bfloat16") and all("of rtx2080ti in bfloat16:" in x for x in told)


def test_what_a_change_takes_for_granted_is_told_by_side():
    """In text, JSON and CSV: before, after every change, after one of them, or whenever."""
    with torch.device("meta"):
        large = nn.Sequential(nn.Linear(40_000, 40_000, bias=False), nn.ReLU())
    subject, board = Subject(large, (torch.empty(1, 40_000, device="meta"),)), load_model("jetson-nano")
    edits = [Edit(dtype="float16"), Edit(dtype="bfloat16"), Edit(batch=2)]
    changes = whatif(subject, edits, board)
    limit = TOO_LARGE.format(6.4, "jetson-nano", 4)
    unstated = UNSTATED.format("jetson-nano", "bfloat16")
    for render in (change_table, change_list):
        told = [str(x) for x in render(changes, "") if "priced as if" in str(x)]
        assert told == [f"before; --batch 2: {limit}", f"--dtype bfloat16: {unstated}"]
        after = [str(x) for x in render(whatif(subject, [Edit(dtype="bfloat16")], board), "") if "priced as if" in str(x)]
        assert after == [f"before: {limit}", f"after: {unstated}"]
        always = [str(x) for x in render(whatif(subject, [Edit(batch=2)], board), "") if "priced as if" in str(x)]
        assert always == [limit]
    pairs = [[list(e.assumptions) for e in (x.before, x.after)] for x in changes]
    assert [x.to_json()["assumptions"] for x in changes] == pairs
    rows = list(csv.DictReader(io.StringIO(change_csv(changes))))
    assert [row["assumptions"] for row in rows] == ["..".join("; ".join(side) for side in pair) for pair in pairs]
    assert rows[0]["batch"] == "1..1" and rows[1]["dtype"] == "float32..bfloat16"


def test_a_change_says_what_its_model_rests_on_and_which_kinds_it_never_saw():
    with torch.device("meta"):
        celu = nn.Sequential(nn.Conv2d(3, 8, 3), nn.CELU())
    subject, edits = Subject(celu, (INPUT,)), [Edit(batch=2), Edit(batch=4)]
    limited = operated(load_model("a30"), 100)
    for model, caveat in ((load_model("h100-pcie"), "nothing was measured on h100-pcie: "), (limited, "a30 limited to 100 W: ")):
        changes = whatif(subject, edits, model)
        advice = [Advice(x, "") for x in changes]
        for texts in (change_table(changes, ""), change_list(changes, ""), advice_table(advice, ""), advice_list(advice, "")):
            told = [str(x) for x in texts]
            assert model.metadata.caveat.startswith(caveat) and told.count(model.metadata.caveat) == 1
            [kinds] = [x for x in told if x.startswith(f"kinds never measured on {model.hardware}, priced by the scaffold: ")]
            assert "celu" in kinds
        x = changes[0]
        assert str(x).splitlines()[1 : 1 + len(x.after.minds)] == list(x.after.minds) and caveat in str(x)
        pair = [e.uncovered_kinds() for e in (x.before, x.after)]
        assert x.to_json()["uncovered_kinds"] == pair and "celu" in pair[0]
        assert next(csv.DictReader(io.StringIO(change_csv(changes))))["uncovered_kinds"] == "..".join(map("; ".join, pair))
    all_known = change_table(whatif(Subject(celu[0], (INPUT,)), Edit(batch=2), load_model("a30")), "")
    assert not any("never measured" in str(x) for x in all_known)


def test_an_edit_that_changes_nothing_says_so():
    subject = Subject(net(24), (INPUT,))
    same, other = whatif(subject, [Edit(align=True), Edit(batch=8)], load_model("a30"))
    assert same.unchanged and same.interval_j == (0.0, 0.0) and not other.unchanged
    text = rendered(*change_table([same, other], "as it is"))
    [row] = [line for line in text.splitlines() if line.startswith("--align")]
    assert "no layer changes" in row and "?" not in row and text.count("no layer changes") == 1
    eager = whatif(subject, [Edit(mode="eager")], load_model("a30"))[0]
    assert not eager.unchanged, "the same layers, launched otherwise"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit(seq_len=5), "seq-len 5 changes no input (of shape 4x3x16x16): texts have two axes"),
        (Edit(image_size=8), "image-size 8 changes no input (of shape 4x7): images have at least four axes"),
    ],
)
def test_a_size_that_no_input_has_is_refused(edit, words):
    image, text = torch.empty(4, 3, 16, 16, device="meta"), torch.zeros(4, 7, dtype=torch.int64, device="meta")
    given, module = (image, net()) if edit.seq_len else (text, nn.Embedding(9, 8, device="meta").eval())
    with pytest.raises(InputError, match=re.escape(words)):
        Subject(module, (given,)).trace(edit)
    with pytest.raises(InputError, match=re.escape(words.split(" (")[0])):
        Subject("torchvision:resnet18", (), Setting(input=tuple(given.shape))).trace(edit)


# --- advice


@pytest.fixture(scope="module")
def knowing(device) -> wl.EnergyModel:
    """A model of the synthetic device that has seen every kind of the networks below, at several sizes."""
    layers: dict[wl.Layer, None] = {}
    for name in ("resnet18", "mobilenet_v3_small"):
        for batch, edge in ((1, 32), (1, 64), (8, 96), (64, 64)):
            layers |= dict.fromkeys(Subject(name, (), Setting(batch, edge)).trace().unique())
    for batch in (1, 4, 16, 64):
        layers |= dict.fromkeys(Subject(net(), (INPUT,)).trace(Edit(batch=batch)).unique())
    return wl.EnergyModel.train(device.measure(list(layers)), name="knowing", source="tests/test_whatif.py")


@needs_torchvision
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_the_first_advice_changes_the_prediction_by_what_it_said(knowing, name):
    subject = Subject(name, (), Setting(batch=1, image_size=64))
    advice = advise(subject, knowing)
    assert len(advice) >= 3
    assert [x.change.change_j for x in advice] == sorted(x.change.change_j for x in advice)
    assert all(x.change.interval_j[1] < 0 for x in advice)
    first = advice[0].change
    if first.edit.describe() == f"--batch {first.edit.batch}":
        again = wl.predict(name, hardware=knowing, batch=first.edit.batch or 1, image_size=64)
    else:
        again = estimate(subject.trace(first.edit), knowing)
    assert again.energy_per_sample_j - first.before.energy_per_sample_j == pytest.approx(first.change_j, rel=1e-12)


@needs_torchvision
def test_only_what_can_be_priced_is_advised(knowing):
    none_measured = replace(knowing, metadata=replace(knowing.metadata, kinds=()))
    assert advise(Subject(net(), (INPUT,)), knowing)
    assert not advise(Subject(net(), (INPUT,)), none_measured)


@needs_torchvision
def test_one_network_is_advised_once_however_it_is_come_by(knowing):
    """All is in one part, so that a change to the heaviest part and one to all parts are the same."""
    with torch.device("meta"):
        whole = nn.Sequential(import_torchvision().models.resnet18()).eval()
    advice = advise(Subject(whole, (torch.empty(8, 3, 96, 96, device="meta"),)), knowing)
    assert any("=" in x.change.edit.describe() for x in advice)
    assert len({(x.change.after.trace.layers, x.change.after.mode) for x in advice}) == len(advice)


def test_a_compiler_is_not_advised_what_it_does_itself(knowing):
    advice = advise(Subject(net(), (INPUT,), Setting(mode="compiled")), knowing)
    edits = {x.change.edit.describe() for x in advice}
    assert any("--batch" in x for x in edits) and not {"--fold-norm", "--fuse-attention"} & edits
    assert all(x.change.before.mode == x.change.after.mode == "compiled" for x in advice)


def test_no_advice_says_why(run, network):  # noqa: F811
    code, out, _ = run("advise", network, "--input", "4x3x64x64", "--hardware", "v100-sxm")
    assert code == 0 and "no change is sure to save" in out and "kinds never measured there" in out
    told = " ".join(out.split())
    assert (
        "no layer was measured on v100-sxm, so that all energy is in kinds never measured there: `wattlayer whatif` prices"
        in told
    )
    [measured] = no_advice(load_model("a30").metadata, "start")
    assert measured.startswith(
        "start: no change is sure to save; of all that was tried, either its interval reaches zero or most"
    )
    assert measured.endswith("kinds never measured there") and "no layer was measured" not in measured


LLAMA_3_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.slow
@needs_torchvision
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_large", "vit_b_16", "llama"])
def test_the_shipped_a30_has_three_pieces_of_advice_for_each_of_four_networks(name, tmp_path, run, capsys):
    """The first is applied by `wattlayer predict`: that it is one of its options is part of what is tested."""
    if name == "llama":
        pytest.importorskip("transformers")
        (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_8B))
        name = f"hf:{tmp_path}"
    advice = json.loads(run("advise", name, "--format", "json")[1])
    assert len(advice) >= 3
    first = advice[0]
    option, value = first["edit"].split()
    applied = json.loads(run("predict", name, option, value, "--format", "json")[1])["total"]["energy_per_sample_j"]
    assert applied - first["before_per_sample_j"] == pytest.approx(first["change_per_sample_j"], rel=1e-9)
    with capsys.disabled():
        said = [f"{x['edit']} {x['change_frac']:+.1%}" for x in advice]
        print(f"\n{name}: {first['before_per_sample_j']:.4g} J a sample, {'; '.join(said)}; applied the first: {applied:.4g} J")


# --- the command line


def test_a_batch_is_a_number_or_a_range():
    assert batches("32") == (32,)
    assert batches("1..128") == (1, 2, 4, 8, 16, 32, 64, 128)
    assert batches("3..20") == (3, 6, 12, 20)
    for text in ("0", "8..4", "a", "1..", "-1"):
        with pytest.raises(InputError, match="batch"):
            batches(text)


@pytest.fixture
def hardware(model, tmp_path):
    path = tmp_path / "synthetic.json"
    model.save(path)
    return path


def test_whatif_prints_a_row_for_each_batch_and_the_same_numbers_as_json(run, network, hardware):  # noqa: F811
    arguments = [
        "whatif",
        network,
        "--hardware",
        hardware,
        "--input",
        "4x3x64x64",
        "--batch",
        "4..16",
        "--replace",
        "2=depthwise",
    ]
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert out.count("--replace '2=depthwise' --batch") == 3
    rows = json.loads(run(*arguments, "--format", "json")[1])
    assert [x["batch"] for x in rows] == [[4, 4], [4, 8], [4, 16]]
    model = wl.load_model(hardware)
    for x in rows:
        assert (x["model"], x["model_sha256"], x["basis"]) == (model.metadata.name, model.sha256, model.metadata.basis)
        assert (x["dtype"], x["mode"], x["interval_frac"]) == (["float32"] * 2, ["graph"] * 2, 0.9)
        assert x["change_low_j"] <= x["change_per_sample_j"] <= x["change_high_j"]
        assert x["after_per_sample_j"] - x["before_per_sample_j"] == pytest.approx(x["change_per_sample_j"])
    assert run(*arguments, "--format", "csv")[1].count("\n") == 4


def test_advise_ranks_and_takes_json(run, network, hardware):  # noqa: F811
    arguments = ["advise", network, "--hardware", hardware, "--input", "4x3x64x64"]
    code, out, _ = run(*arguments)
    assert code == 0 and "mind" in out and "interval at 90%" in out
    rows = json.loads(run(*arguments, "--format", "json")[1])
    assert len(rows) == out.count("--") and all(x["change_high_j"] < 0 for x in rows)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "nothing is changed"),
        (["--replace", "2:depthwise"], "PATTERN=RECIPE"),
        (["--replace", "9=depthwise"], "'9'"),
        (["--batch", "x..3"], "x..3"),
        (["--drop", "2"], "does not run"),
        (["--fold-norm", "--format", "html"], "html"),
    ],
)
def test_bad_changes_end_in_one_line(run, network, hardware, arguments, named):  # noqa: F811
    one_line(run("whatif", network, "--hardware", hardware, "--input", "4x3x64x64", *arguments), named)


def test_a_change_is_of_one_condition():
    held, free = operated(wl.load_model("a30"), power_limit_w=60), wl.load_model("a30")
    before, plain = (estimate(trace(net(), INPUT), model) for model in (held, free))
    held_so, as_it_is = "'a30 limited to 60 W: .*'", "'as it is'"
    for pair, told in (((before, plain), f"{held_so} and {as_it_is}"), ((plain, before), f"{as_it_is} and {held_so}")):
        with pytest.raises(InputError, match=rf"under two conditions \({told}\): price both under one"):
            change(*pair)
    with pytest.raises(InputError, match=r"is of a30 limited to 60 W.*: say hardware=, the model that made it"):
        before.whatif(net(), (INPUT,), dtype="float16")
    same = before.whatif(net(), (INPUT,), dtype="float16", hardware=held)
    assert same.after.model.conditions == before.model.conditions
    assert same.change_j == pytest.approx(
        estimate(trace(net(), INPUT, dtype="float16"), held).energy_per_sample_j - before.energy_per_sample_j
    )


def test_one_tensor_is_one_input_with_its_whole_batch():
    whole = Subject(net(), (INPUT,)).trace()
    assert Subject(net(), INPUT).trace().layers == Subject(net(), [INPUT]).trace().layers == whole.layers and whole.batch == 4
    before = wl.predict(net(), INPUT, hardware="a30")
    assert before.whatif(net(), INPUT, batch=8).after.trace.batch == 8


def test_an_edit_is_written_as_one_pattern_as_several_or_as_a_mapping():
    """A pattern of two letters was taken for two patterns."""
    assert Edit(drop="12") == Edit(drop=("12",)) == Edit(drop=["12"])
    pair = Edit(replace=(("0.*", "depthwise"),))
    for written in ({"0.*": "depthwise"}, "0.*=depthwise", ["0.*=depthwise"], [("0.*", "depthwise")], iter(["0.*=depthwise"])):
        assert Edit(replace=written) == pair
    before = wl.predict(net(), INPUT, hardware="a30")
    assert "--drop 'blocks.1'" in str(before.whatif(net(), INPUT, drop="blocks.1"))
    assert "--replace 'blocks=relu'" in str(before.whatif(net(), INPUT, replace="blocks=relu"))
    for wrong in ({"replace": [("a", "b", "c")]}, {"replace": 5}, {"replace": {"a": 3}}, {"drop": 5}, {"drop": [1]}):
        with pytest.raises(InputError, match=r"replace|drop"):
            Edit(**wrong)
    with pytest.raises(InputError, match="'x' is no Edit"):
        whatif("hf:gpt2", ["x"], "a30")


@pytest.mark.parametrize(("sizes", "named"), [
    ({"batch": -4}, "batch -4 must be at least 1"), ({"batch": 2.0}, "batch 2.0 is not a whole number"),
    ({"batch": True}, "batch True"), ({"image_size": 0}, "image-size 0 must be"), ({"seq_len": "8"}, "seq-len '8' is not"),
])  # fmt: skip
def test_sizes_that_no_input_can_have_are_refused(sizes, named):
    with pytest.raises(InputError, match=named):
        Edit(**sizes)


def test_networks_and_models_may_be_given_by_name_and_edits_alone():
    names = {"hf:gpt2": Subject("hf:gpt2")}
    for name, subject in names.items():
        by_name = whatif(name, Edit(seq_len=64), "a30")
        assert [x.to_json() for x in by_name] == [
            x.to_json() for x in whatif(subject, iter([Edit(seq_len=64)]), load_model("a30"))
        ]
    named, loaded = (advise(Subject(net(), (INPUT,)), model) for model in ("a30", load_model("a30")))
    assert [x.change.to_json() for x in named] == [x.change.to_json() for x in loaded] != []
    for call in (lambda x: whatif(x, Edit(), "a30"), lambda x: advise(x, "a30"), wl.compare):
        with pytest.raises(InputError, match=r"Sequential is no network's name: give a module with its inputs, Subject\(module"):
            call(nn.Sequential(nn.Conv2d(3, 3, 1)))


@pytest.mark.parametrize("given", [{"power_limit_w": "100"}, {"clock_mhz": True}])
def test_limits_are_numbers(given):
    with pytest.raises(InputError, match="is no number"):
        operated(load_model("a30"), **given)
