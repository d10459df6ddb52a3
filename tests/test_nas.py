"""Search loops: cached traces equal plain ones, tables equal full estimates, gradients and fronts are right."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import NamedTuple

import networks
import numpy as np
import pytest
import torch
from sklearn.datasets import make_regression
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import wattlayer as wl
from wattlayer import nas
from wattlayer.errors import InputError
from wattlayer.estimate import UNSTATED, estimate_energies_j, launch_bound
from wattlayer.features import columns
from wattlayer.model import load_model
from wattlayer.model.folders import models_folder
from wattlayer.nas import parts
from wattlayer.nas.regressor import EnergyRegressor
from wattlayer.nas.search import _child, _select, crowding, pareto, ranks
from wattlayer.nas.table import CHUNK
from wattlayer.trace import recorder
from wattlayer.trace.rewrite import trace_as

SPACES = {
    "nas-bench-201": nas.nas_bench_201(cells=2),
    "once-for-all": nas.once_for_all((64, 96), classes=10),
    "vision-transformer": nas.vision_transformer((1, 2, 3), (48, 64), (1, 2), (2, 4), size=64, classes=10),
}


@pytest.fixture(scope="module")
def model():
    return wl.load_model("a30")


@pytest.fixture(scope="module", params=SPACES)
def space(request):
    return SPACES[request.param]


def genomes(space: nas.Space, count: int, seed: int = 0) -> list[nas.Genome]:
    rng = random.Random(seed)
    return [space.random(rng) for _ in range(count)]


def plain_trace(space: nas.Space, genome: nas.Genome, batch: int = 1, **options) -> wl.Trace:
    with torch.device("meta"):
        network = space.build(genome)
        inputs = [torch.empty(batch, *shape) for shape in space.input_shapes(genome)]
    return trace_as(options.pop("dtype", None), network, *inputs, **options)


class Elastic(nn.Module):
    """A network of as many channels as its width, of eight."""

    def __init__(self, width):
        super().__init__()
        self.width, self.conv = width, nn.Conv2d(8, 8, 3, padding=1)


class Masked(Elastic):
    def forward(self, x):
        kept = torch.arange(8, device="cpu") < self.width
        return torch.conv2d(x[:, kept], self.conv.weight[:, kept][kept], None, 1, 1)


class Listed(Elastic):
    def forward(self, x):
        return x[:, [i < self.width for i in range(8)]] * 2


class Repeated(Elastic):
    def forward(self, x):
        return torch.repeat_interleave(x, torch.tensor([self.width] * 8, device="cpu"), 1) * 2


class Rare(Elastic):
    def forward(self, x):
        return torch.special.airy_ai(self.conv(x))


@dataclass(frozen=True)
class Part:
    """One network as a part, or several in a row that are each given the input."""

    network: type[Elastic]
    widths: tuple[int, ...]

    input_shapes = ((8, 16, 16),)

    def build(self):
        return Beside(*(self.network(width) for width in self.widths))


class Beside(nn.ModuleList):
    def __init__(self, *networks):
        super().__init__(networks)

    def forward(self, x):
        return [network(x) for network in self]


def one_of(*parts) -> nas.Space:
    slot = nas.Slot((0,), lambda i: [("part", parts[i])])
    return nas.Space("one part", (len(parts),), (slot,), lambda g: parts[g[0]].build(), lambda g: parts[g[0]].input_shapes)


@pytest.mark.parametrize("kind", [list, np.array, iter, tuple])
def test_sizes_come_in_any_sequence(kind):
    assert nas.once_for_all(kind([64, 96])).choices == SPACES["once-for-all"].choices
    given = nas.vision_transformer(*(kind(x) for x in ([1, 2, 3], [48, 64], [1, 2], [2, 4])), size=64, classes=10)
    assert given.choices == SPACES["vision-transformer"].choices


@pytest.mark.parametrize("network", [Masked, Listed, Repeated])
def test_a_width_that_a_mask_on_the_host_decides_is_its_own(model, network):
    space, x = one_of(*(Part(network, (width,)) for width in (8, 4, 2))), torch.empty(4, 8, 16, 16, device="meta")
    whole = [wl.trace(space.build((i,)), x) for i in range(3)]
    assert len({trace.layers for trace in whole}) == 3
    assert [space.trace((i,), 4).layers for i in range(3)] == [trace.layers for trace in whole]
    assert [wl.trace(space.build((i,)), x, cached=True).layers for i in range(3)] == [trace.layers for trace in whole]
    together = wl.trace(Part(network, (8, 4, 2)).build(), x)
    assert together.layers == tuple(layer for trace in whole for layer in trace.layers)
    energies = nas.LookupTable.of(space, model, 4).energy_j([(i,) for i in range(3)])
    assert energies == pytest.approx([wl.estimate(trace, model).energy_j for trace in whole])


def test_what_was_taken_for_granted_of_a_part_is_told_of_the_whole():
    space = one_of(Part(Rare, (8, 8)), Part(Repeated, (2,)))
    for genome in ((0,), (1,)):
        whole = wl.trace(space.build(genome), torch.empty(1, 8, 16, 16, device="meta"))
        assert space.trace(genome).assumptions == whole.assumptions
    assert len(space.trace((0,)).assumptions) == 1


@dataclass(frozen=True)
class Told:
    """A part of which something is to be said that depends on the others as well."""

    function: str

    input_shapes = ((16, 64),)

    def build(self):
        return {"linear": nn.Linear(64, 64), "conv1d": Conv1D()}.get(self.function) or Special(self.function)


class Special(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return getattr(torch.special, self.name)(x)


class Conv1D(nn.Module):
    """As GPT-2 of transformers keeps its weights."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(64, 64)), nn.Parameter(torch.empty(64))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, 64), self.weight).view(x.shape)


@pytest.mark.parametrize(("functions", "dtype"), [(("airy_ai", "bessel_j0"), "float32"), (("linear", "conv1d"), "int8")])
def test_what_parts_say_of_themselves_is_said_of_the_whole_once(functions, dtype):
    parts = [Told(name) for name in functions]
    slot = nas.Slot((), lambda: [(str(i), part) for i, part in enumerate(parts)])
    space = nas.Space(
        "two parts", (), (slot,), lambda g: nn.Sequential(*(x.build() for x in parts)), lambda g: parts[0].input_shapes
    )
    own, whole = space.trace((), dtype=dtype), plain_trace(space, (), dtype=dtype)
    assert own.layers == whole.layers
    assert own.assumptions == whole.assumptions != ()


class Narrow(NamedTuple):
    width: int

    @property
    def input_shapes(self):
        return ((3, 8, 8),)

    def build(self):
        return nn.Conv2d(3, self.width, 3)


class Wide(NamedTuple):
    width: int

    @property
    def input_shapes(self):
        return ((3, 8, 8),)

    def build(self):
        return nn.Conv2d(3, 8 * self.width, 3)


def test_named_tuples_of_equal_fields_are_different_parts():
    space = one_of(Narrow(2), Wide(2))
    assert Narrow(2) == Wide(2)
    assert [space.trace((i,)).layers[-1].outputs[0].shape[1] for i in range(2)] == [2, 16]


@pytest.mark.parametrize(
    ("batch", "dtype", "tf32"), [(1, "float32", "conv"), (4, "float16", "all"), (2, "int8", "none"), (2, "int4", "none")]
)
def test_a_candidates_trace_is_the_plain_one(space, batch, dtype, tf32):
    for genome in genomes(space, 4):
        own, plain = space.trace(genome, batch, dtype, tf32), plain_trace(space, genome, batch, dtype=dtype, tf32=tf32)
        assert own.layers == plain.layers
        assert own.paths == plain.paths
        assert own.inputs == plain.inputs
        assert (own.tf32, own.batch, own.dtype) == (plain.tf32, plain.batch, plain.dtype)
        assert own.assumptions == plain.assumptions


def test_candidates_that_differ_have_their_own_layers():
    space = SPACES["once-for-all"]
    first = genomes(space, 1)[0]
    seen = {space.trace(first).layers}
    for position in (0, 1, 6, 7):
        changed = list(first)
        changed[position] = (first[position] + 1) % space.choices[position]
        seen.add(space.trace(changed).layers)
        assert space.trace(changed).layers == plain_trace(space, tuple(changed)).layers
    assert len(seen) == 5


def random_network(rng: random.Random) -> nn.Module:
    """Classes alike in name, unlike in what they hold."""
    width, parts = 3, []
    for _ in range(rng.randint(2, 4)):
        wider = rng.choice([4, 6, 8])
        kernel, stride = rng.choice([1, 3, 5]), rng.choice([1, 2])
        parts.append(nn.Conv2d(width, wider, kernel, stride, kernel // 2, bias=rng.random() < 0.5))
        parts.append(rng.choice([nn.BatchNorm2d(wider), nn.GroupNorm(2, wider), nn.Identity()]))
        parts.append(rng.choice([nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.MaxPool2d(3, 1, rng.choice([0, 1]))]))
        width = wider
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(rng.choice([1, 2])), nn.Flatten())


def test_cached_operators_give_the_plain_trace_on_random_networks():
    rng = random.Random(7)
    for _ in range(40):
        network, size = random_network(rng), rng.choice([64, 65, 96])
        x = torch.empty(rng.choice([1, 3]), 3, size, size)
        dtype = rng.choice([None, "float16", "float32"])
        cached, plain = wl.trace(network, x, dtype=dtype, cached=True), wl.trace(network, x, dtype=dtype)
        assert cached == plain


def test_the_cache_keeps_default_dtypes_apart():
    class Fresh(nn.Module):
        def forward(self, x):
            return torch.ones(4, 4) + x.mean()

    x = torch.ones(2, device="meta")
    single = wl.trace(Fresh(), x, cached=True)
    try:
        torch.set_default_dtype(torch.float64)
        assert wl.trace(Fresh(), x, cached=True) == wl.trace(Fresh(), x) != single
    finally:
        torch.set_default_dtype(torch.float32)


class Chosen(nn.Module):
    """Rows by the values of a mask: how many follows from values, not from shapes."""

    def __init__(self, mask: list[bool], other: list[bool]) -> None:
        super().__init__()
        self.mask, self.other = torch.tensor(mask), torch.tensor(other)

    def forward(self, x):
        return x[torch.nonzero(self.mask).squeeze(1)].relu(), x[torch.nonzero(self.other).squeeze(1)].relu()


@pytest.mark.parametrize("cached", [False, True])
def test_a_shape_that_follows_from_values_is_never_remembered(cached):
    for mask in itertools.product([True, False], repeat=3):
        trace = wl.trace(Chosen(list(mask), [True, False, False]), torch.ones(3, 5), cached=cached)
        rows = [x.outputs[0].shape[0] for x in trace.layers if x.kind == "relu"]
        assert rows == [sum(mask), 1]


def test_traps_are_the_same_cached():
    for network, x in (
        (networks.SharedModule(), torch.ones(2, 16)),
        (networks.InPlace(), torch.ones(2, 3)),
        (networks.FunctionalAttention(), torch.ones(2, 5, 32)),
        (networks.ConvNet(), torch.ones(1, 3, 16, 16)),
    ):
        for _ in range(2):
            assert wl.trace(network, x, cached=True) == wl.trace(network, x)


def test_a_table_gives_the_full_estimate(space, model):
    table = nas.LookupTable.of(space, model, batch=2)
    candidates = genomes(space, 12, seed=3)
    full = [wl.estimate(plain_trace(space, g, 2), model).energy_j for g in candidates[:4]]
    traced = [x.energy_j for x in wl.estimate_many([space.trace(g, 2) for g in candidates], model)]
    assert table.energy_j(candidates[:4]) == pytest.approx(full, rel=1e-9)
    assert table.energy_j(np.array(candidates, dtype=np.uint8)) == pytest.approx(traced, rel=1e-9)
    assert len(set(traced)) > 6


def test_totals_alone_equal_the_estimates(model):
    traces = [space.trace(g) for space in SPACES.values() for g in genomes(space, 5)]
    full = wl.estimate_many(traces, model)
    assert estimate_energies_j(traces, model) == pytest.approx([x.energy_j for x in full], rel=1e-9)
    alone = [wl.estimate(t, model) for t in traces[:3]]
    for one, many in zip(alone, full):
        assert one.interval_j == pytest.approx(many.interval_j, rel=1e-9)


def test_processes_give_the_same_numbers(model):
    traces = [SPACES["once-for-all"].trace(g) for g in genomes(SPACES["once-for-all"], 6)]
    one, two = wl.estimate_many(traces, model), wl.estimate_many(traces, model, n_jobs=2)
    np.testing.assert_allclose([x.interval_j for x in two], [x.interval_j for x in one], rtol=1e-9)
    assert [x.extrapolated.tolist() for x in two] == [x.extrapolated.tolist() for x in one]


def test_a_sweep_streams_in_order(model):
    space = SPACES["nas-bench-201"]
    endless = (genome for genome in itertools.cycle(genomes(space, 7)))
    first = list(itertools.islice(nas.sweep(space, endless, model, chunk=5), 13))
    assert [g for g, _ in first] == list(itertools.islice(itertools.cycle(genomes(space, 7)), 13))
    assert [e for _, e in first] == pytest.approx(nas.LookupTable.of(space, model).energy_j([g for g, _ in first]), rel=1e-9)


def test_wrong_genomes_are_refused(model):
    space = SPACES["nas-bench-201"]
    table = nas.LookupTable.of(space, model)
    for wrong, reason in (
        ((0,) * 5, "positions"), ((0, 0, 0, 0, 0, 5), "position 5"), ((-1, 0, 0, 0, 0, 0), "position 0"), ((1.9,) * 6, "1.9"),
    ):  # fmt: skip
        with pytest.raises(wl.InputError, match=reason):
            space.trace(wrong)
        with pytest.raises(wl.InputError, match=reason):
            list(nas.sweep(space, [wrong], model))
    for wrong in ([[0] * 5], [[0, 0, 0, 0, 0, 5]], [[-1, 0, 0, 0, 0, 0]], [[0.5] * 6]):
        with pytest.raises(wl.InputError):
            table.energy_j(wrong)
    for wrong, reason in (
        ([(0,) * 6, (0, 0, 9, 0, 0, 0)], "position 2 of genome 1 of .* is 9, not one of 0 to 4"),
        ([(0,) * 6, (0,) * 5], "these differ in length"),
        ([[]], r"\[n, 6\], not \[1, 0\]"),
        (np.zeros((0, 5), int), r"\[n, 6\], not \[0, 5\]"),
    ):
        with pytest.raises(wl.InputError, match=reason):
            table.energy_j(wrong)
    with pytest.raises(wl.InputError, match="genome 3 is no sequence"):
        list(nas.sweep(space, [3], model))
    for nobody in ([], (), np.zeros((0, 6), int)):
        assert table.energy_j(nobody).shape == (0,)
    for call in (space.trace, space.build, space.check):
        with pytest.raises(wl.InputError, match="genome None is no sequence"):
            call(None)
    with pytest.raises(wl.InputError, match="dtype"):
        space.trace((0,) * 6, dtype="float31")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: nas.nas_bench_201(cells=0), "cells 0 must be at least 1"),
        (lambda: nas.nas_bench_201(cells=2.5), "cells 2.5 is not a whole number"),
        (lambda: nas.nas_bench_201(channels="4"), "channels '4' is not a whole number"),
        (lambda: nas.nas_bench_201(size="4"), "image size '4' is not a whole number"),
        (lambda: nas.once_for_all((100,)), "image size 100 is not a multiple of 32"),
        (lambda: nas.once_for_all(160), "resolutions are whole numbers to choose among, not 160"),
        (lambda: nas.once_for_all(()), "resolutions are empty"),
        (lambda: nas.once_for_all(classes=0), "classes 0 must be at least 1"),
        (lambda: nas.vision_transformer(depths=()), "depths are empty"),
        (lambda: nas.vision_transformer(heads=3), "heads are whole numbers to choose among, not 3"),
        (lambda: nas.evolve(SPACES["nas-bench-201"], len, seed="a"), "seed 'a' is not a whole number"),
        (lambda: nas.evolve(SPACES["nas-bench-201"], len, seed=None), "seed None is not a whole number"),
        (lambda: nas.vision_transformer(depths=(0, 1)), "depths 0 must be at least 1"),
        (lambda: nas.vision_transformer(patch=0), "patch 0 must be at least 1"),
        (lambda: nas.vision_transformer(heads=(0,)), "heads 0 must be at least 1"),
        (lambda: nas.vision_transformer(mlp_ratios=(1.5,)), "mlp_ratios 1.5 is not a whole number"),
    ],
)
def test_spaces_of_impossible_sizes_are_refused(call, reason):
    """A network without cells or heads would be the cheapest of all."""
    with pytest.raises(wl.InputError, match=reason):
        call()


def test_searches_for_nothing_are_refused(model):
    space, genome = SPACES["nas-bench-201"], (3,) * 6

    def asked(candidates):
        return np.zeros((len(candidates), 1))

    for search, reason in (
        (lambda: list(nas.sweep(space, [genome], model, chunk=0)), "chunk 0 must be at least 1"),
        (lambda: list(nas.sweep(space, [genome], model, batch=0)), "batch 0 must be at least 1"),
        (lambda: space.trace(genome, batch=0), "batch 0 must be at least 1"),
        (lambda: nas.LookupTable.of(space, model, batch=0), "batch 0 must be at least 1"),
        (lambda: nas.evolve(space, asked, population=0), "population 0 must be at least 1"),
        (lambda: nas.evolve(space, asked, generations=-1), "generations -1 must be at least 0"),
        (lambda: nas.evolve(space, asked, generations=1.5), "generations 1.5 is not a whole number"),
        (lambda: nas.evolve(space, asked, mutate_frac=float("nan")), "mutate_frac nan must be between 0 and 1"),
        (lambda: list(nas.sweep(space, [genome], model, chunk=1.5)), "chunk 1.5 is not a whole number"),
        (lambda: nas.LookupTable.of(space, model, run="nosuch"), "'nosuch'; it knows 'train_campaign_fwd_part'"),
    ):
        with pytest.raises(wl.InputError, match=reason):
            search()


def test_a_model_may_be_named_and_weights_held_in_int8(model):
    space = SPACES["vision-transformer"]
    few = genomes(space, 3)
    table = nas.LookupTable.of(space, "a30", dtype="int8").energy_j(few)
    assert table == pytest.approx([x for _, x in nas.sweep(space, few, "a30", dtype="int8")], rel=1e-9)
    assert table == pytest.approx([wl.estimate(space.trace(g, dtype="int8"), model).energy_j for g in few], rel=1e-9)
    assert (table != nas.LookupTable.of(space, model, dtype="float16").energy_j(few)).all()


def test_objectives_that_are_no_table_of_numbers_are_refused():
    space = SPACES["nas-bench-201"]
    for objectives, reason in (
        (lambda genomes: [[float("nan"), 1.0] for _ in genomes], r"genome \(.*\) are \[nan, 1.0\]: give finite numbers, or inf"),
        (lambda genomes: [[-np.inf] for _ in genomes], r"are \[-inf\]"),
        (lambda genomes: [[1.0] * (1 + i % 2) for i, _ in enumerate(genomes)], "no table of numbers"),
        (lambda genomes: 1.0, r"are \[8, objectives\], not \[\]"),
        (lambda genomes: np.zeros((len(genomes) - 1, 2)), r"not \[7, 2\]"),
        (lambda genomes: np.zeros((len(genomes), 0)), r"not \[8, 0\]"),
    ):
        with pytest.raises(wl.InputError, match=reason):
            nas.evolve(space, objectives, population=8, generations=1)


def test_one_objective_may_be_a_list_and_impossible_candidates_infinite():
    space = SPACES["nas-bench-201"]
    least = nas.evolve(space, lambda genomes: [sum(g) for g in genomes], population=16, generations=40)
    assert least.genomes == ((0,) * 6,) and least.values.tolist() == [[0.0]]

    def half(genomes):
        return [[sum(g), -sum(g)] if g[0] else [np.inf, -99.0] for g in genomes]

    front = nas.evolve(space, half, population=16, generations=5)
    assert len(front.genomes) > 1 and np.isfinite(front.values).all() and all(g[0] for g in front.genomes)
    nothing = nas.evolve(space, lambda genomes: [np.inf for _ in genomes], population=4, generations=1)
    assert nothing.genomes == () and nothing.values.shape == (0, 1)
    assert not np.isnan(crowding(np.array([[1.0, np.inf], [2.0, 1.0], [np.inf, np.inf], [np.inf, 0.0]]))).any()


def test_the_penalty_is_the_mean_over_candidates(model):
    space = SPACES["nas-bench-201"]
    table = nas.LookupTable.of(space, model)
    every = np.array(list(itertools.product(range(5), repeat=6)))
    logits = [torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    weights = [torch.softmax(x, 0) for x in logits]
    chance = np.prod([w.numpy()[every[:, i]] for i, w in enumerate(weights)], axis=0)
    assert float(nas.expected_energy_j(table, weights)) == pytest.approx(float(chance @ table.energy_j(every)), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float32])
def test_the_penalty_of_a_choice_is_its_energy_in_every_dtype(model, dtype):
    space = SPACES["nas-bench-201"]
    table, genome = nas.LookupTable.of(space, model), genomes(space, 1)[0]
    chosen = [torch.eye(n)[x].to(dtype) for n, x in zip(space.choices, genome)]
    for weights in (chosen, [chosen[0].double(), *chosen[1:]]):
        assert float(nas.expected_energy_j(table, weights)) == pytest.approx(table.energy_j([genome])[0], rel=1e-5)


def test_a_space_of_one_network_has_a_table_as_well(model):
    space = nas.Space(
        "fixed", (), (nas.Slot((), lambda: [("part", Narrow(4))]),), lambda g: Narrow(4).build(), lambda g: ((3, 8, 8),)
    )
    table = nas.LookupTable.of(space, model)
    assert table.energy_j([()]) == pytest.approx([float(nas.expected_energy_j(table, []))])
    assert table.energy_j([]).shape == (0,)
    assert table.energy_j([(), ()]).shape == (2,)


def test_tables_and_fronts_compare_and_hash_as_objects(model):
    """Their arrays have no one truth value."""
    space = SPACES["nas-bench-201"]
    tables = [nas.LookupTable.of(space, model) for _ in range(2)]
    fronts = [nas.evolve(space, lambda g: [[1.0]] * len(g), 2, 0) for _ in range(2)]
    for one, two in (tables, fronts):
        assert one == one and one != two and len({one, two}) == 2  # noqa: PLR0124


def test_the_penalty_has_gradients(model):
    space = SPACES["vision-transformer"]
    table = nas.LookupTable.of(space, model)
    genome = genomes(space, 1)[0]
    chosen = [torch.eye(n, dtype=torch.float64)[x] for n, x in zip(space.choices, genome)]
    assert float(nas.expected_energy_j(table, chosen)) == pytest.approx(table.energy_j([genome])[0], rel=1e-9)
    logits = [torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in space.choices]
    penalty = lambda *x: nas.expected_energy_j(table, [w.softmax(0) for w in x])  # noqa: E731
    assert torch.autograd.gradcheck(penalty, tuple(logits))
    optimiser = torch.optim.Adam(logits, lr=0.1)  # slow enough to tell apart widths that cost the same but for 0.2 %
    for _ in range(200):
        optimiser.zero_grad()
        penalty(*logits).backward()
        optimiser.step()
    cheapest = [int(x.argmax()) for x in logits]
    assert table.energy_j([cheapest])[0] == table.energy_j(list(itertools.product(*map(range, space.choices)))).min()
    with pytest.raises(wl.InputError, match="shapes"):
        nas.expected_energy_j(table, chosen[:-1])
    for odd, reason in (
        (2 * chosen[0], "position 0 add up to 2, the least is 0: give probabilities, as softmax does"),
        (torch.linspace(-1, 1, len(chosen[0])) + 1 / len(chosen[0]), "position 0 add up to 1, the least is -"),
        (torch.full_like(chosen[0], float("nan")), "add up to nan"),
    ):
        with pytest.raises(wl.InputError, match=reason):
            nas.expected_energy_j(table, [odd, *chosen[1:]])
    with pytest.raises(wl.InputError, match=r"torch tensors, not ndarray \(at position 1\)"):
        nas.expected_energy_j(table, [chosen[0], *(w.numpy() for w in chosen[1:])])
    many = torch.func.vmap(lambda *x: nas.expected_energy_j(table, x))(*(torch.stack([w, w]) for w in chosen))
    assert many.tolist() == [float(nas.expected_energy_j(table, chosen))] * 2


def test_pareto_is_what_brute_force_finds():
    values = np.random.default_rng(0).integers(0, 6, (80, 3)).astype(float)
    brute = [not any((b <= a).all() and (b < a).any() for b in values) for a in values]
    assert nas.pareto(values).tolist() == brute
    rank = ranks(values)
    assert (rank == 0).tolist() == brute
    assert nas.pareto(values[rank > 0]).tolist() == (rank[rank > 0] == 1).tolist()
    assert np.isinf(crowding(values)).sum() >= 2
    assert nas.pareto([3, 1, 2, 1]).tolist() == [False, True, False, True], "of one objective"
    assert nas.pareto([]).tolist() == nas.pareto(np.zeros((0, 2))).tolist() == []
    for wrong, reason in (
        ([[1, 1], [1, float("nan")]], "row 1 are not a number"),
        ([[1], [1, 2]], "differ in length"),
        (np.zeros((1, 1, 1)), "not .1, 1, 1."),
        (["a"], "numbers"),
    ):
        with pytest.raises(wl.InputError, match=reason):
            nas.pareto(wrong)


def test_crowding_is_how_far_apart_both_neighbours_are_as_shares_of_the_front():
    distance = crowding(np.array([[0.0, 10.0], [1.0, 9.0], [4.0, 6.0], [10.0, 0.0]]))
    assert distance == pytest.approx([np.inf, 0.4 + 0.4, 0.9 + 0.9, np.inf])


def test_of_one_front_those_that_stand_apart_are_kept():
    front = [(0.0, 10.0), (1.0, 9.0), (1.1, 8.9), (5.0, 5.0), (10.0, 0.0)]
    known = {(i,): np.array(x) for i, x in enumerate(front)}
    assert sorted(_select(list(known), known, 3)) == [(0,), (3,), (4,)]


def test_evolution_finds_the_front_of_a_small_space(model):
    space = nas.nas_bench_201(cells=1)
    table = nas.LookupTable.of(space, model)
    asked: list[nas.Genome] = []

    def objectives(candidates):
        asked.extend(candidates)
        work = [sum(g) for g in candidates]
        return np.column_stack([table.energy_j(candidates), -np.array(work)])

    front = nas.evolve(space, objectives, population=40, generations=25, seed=1)
    assert len(asked) == len(set(asked))
    assert front.genomes == nas.evolve(space, objectives, population=40, generations=25, seed=1).genomes
    every = list(itertools.product(range(5), repeat=6))
    exact = np.column_stack([table.energy_j(every), -np.array([sum(g) for g in every])])
    best = exact[nas.pareto(exact)]
    for energy, negative_work in best:
        near = front.values[front.values[:, 1] <= negative_work + 1]
        assert len(near) and near[:, 0].min() <= 1.1 * energy


def test_optuna_searches_two_objectives(model):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = nas.nas_bench_201(cells=1)
    table = nas.LookupTable.of(space, model)

    def objective(trial):
        genome = space.suggest(trial)
        return table.energy_j([genome])[0], genome.count(3)

    sampler = optuna.samplers.NSGAIISampler(population_size=20, seed=0)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    study.optimize(objective, n_trials=120)
    assert len(study.best_trials) > 2
    for trial in study.best_trials:
        genome = tuple(trial.params[label] for label in space.labels)
        assert trial.values[0] == pytest.approx(wl.estimate(space.trace(genome), model).energy_j, rel=1e-9)


@parametrize_with_checks([EnergyRegressor(trees=10)])
def test_the_regressor_is_scikit_learns(estimator, check):
    check(estimator)


def test_the_regressor_learns_and_its_interval_holds():
    X, y = make_regression(600, 6, noise=5.0, random_state=0)
    energy = np.exp(y / np.abs(y).max())
    fitted = EnergyRegressor(trees=200).fit(X[:400], energy[:400])
    assert fitted.score(X[400:], energy[400:]) > 0.8
    low, high = fitted.predict_interval(X[400:])
    held = ((low <= energy[400:]) & (energy[400:] <= high)).mean()
    assert 0.8 < held <= 1.0
    assert (low > 0).all()
    with pytest.raises(ValueError, match="positive"):
        EnergyRegressor(target="log").fit(X, y)
    with pytest.raises(ValueError, match="not one of"):
        EnergyRegressor(target="cubic").fit(X, y)
    for frac in (-1.0, 0.0, 2.0, float("nan")):
        with pytest.raises(ValueError, match=f"interval_frac {frac} must be above 0 and at most 1"):
            EnergyRegressor(interval_frac=frac).fit(X, y)


@pytest.mark.parametrize("energy_j", [1.0, 1e-4, 1e-9])
def test_the_regressor_does_not_depend_on_the_unit(energy_j):
    X = np.random.default_rng(0).random((200, 3))
    y = np.exp(3 * X.sum(axis=1))
    y[0] = 0.0
    plain, scaled = EnergyRegressor().fit(X, y), EnergyRegressor().fit(X, energy_j * y)
    assert scaled.score(X, energy_j * y) > 0.99
    assert scaled.predict(X) / energy_j == pytest.approx(plain.predict(X), rel=1e-3, abs=1e-3 * y.max())


@pytest.mark.parametrize(
    ("name", "value"),
    [("trees", 0), ("trees", 2.5), ("depth", -1), ("learning_rate_frac", float("nan")), ("learning_rate_frac", 0),
     ("interval_frac", "a"), ("interval_frac", None)],
)  # fmt: skip
def test_parameters_of_no_regressor_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} {value!r} must be"):
        EnergyRegressor(**{name: value}).fit(np.ones((9, 2)), np.arange(1.0, 10.0))


@pytest.mark.parametrize("size", [30, 18, 2])
def test_a_cell_space_of_sizes_that_cannot_be_halved_twice_is_refused(size):
    with pytest.raises(InputError, match=f"image size {size} is not a multiple of 4"):
        nas.nas_bench_201(1, 16, size)


@pytest.mark.parametrize("batch", [2.0, "4", True, None])
def test_a_batch_that_is_no_whole_number_is_refused(batch):
    space = nas.nas_bench_201(1)
    for ask in (lambda: nas.LookupTable.of(space, "a30", batch=batch), lambda: space.trace((0,) * 6, batch=batch)):
        with pytest.raises(InputError, match=f"batch {batch!r} is not a whole number"):
            ask()


@pytest.mark.parametrize("value", ["3", None, [1], float("nan")])
def test_a_genome_of_something_else_than_numbers_is_refused(value):
    with pytest.raises(InputError, match="position 2 of a genome"):
        nas.nas_bench_201(1).trace((0, 0, value, 0, 0, 0))


def test_too_few_samples_for_an_interval_give_an_infinite_one():
    X = np.random.default_rng(0).normal(size=(9, 2))
    y = np.exp(X[:, 0])
    for n, told in ((3, False), (8, False), (9, True)):
        low, high = EnergyRegressor(trees=5).fit(X[:n], y[:n]).predict_interval(X)
        assert np.isfinite(high).all() == told and (low > 0).all() == told
    low, high = EnergyRegressor(trees=5, target="linear").fit(X[:5], y[:5]).predict_interval(X)
    assert np.isneginf(low).all() and np.isposinf(high).all()


def test_numbers_that_trees_cannot_hold_are_refused_and_features_tell_their_share():
    X = np.random.default_rng(0).normal(size=(60, 3))
    fitted = EnergyRegressor(trees=20).fit(X, np.exp(X[:, 1]))
    assert fitted.feature_importances_.argmax() == 1 and fitted.feature_importances_.sum() == pytest.approx(1.0)
    X[0, 0] = 1e39
    for call in (lambda: EnergyRegressor().fit(X, np.ones(60)), lambda: fitted.predict(X)):
        with pytest.raises(ValueError, match="too large for dtype"):
            call()


@pytest.mark.parametrize("seed", range(40))
def test_two_objectives_are_ranked_as_fronts_peeled_one_by_one(seed):
    random = np.random.default_rng(seed)
    table = random.integers(0, 6, (int(random.integers(0, 40)), 2)).astype(float) * random.choice([1.0, -1.0])
    table[random.random(table.shape) < 0.1] = np.inf
    third = np.column_stack([table, np.zeros(len(table))])  # which beats nobody, and takes the way of three objectives
    assert np.array_equal(ranks(table), ranks(third))
    assert np.array_equal(pareto(table), pareto(third))


def test_a_model_is_read_once_until_its_file_changes(tmp_path):
    path = tmp_path / "a30.json"
    path.write_bytes((models_folder() / "a30.json").read_bytes())
    first = load_model(path)
    assert load_model(str(path)) is first
    path.write_bytes((models_folder() / "gtx1070.json").read_bytes())
    assert load_model(path).hardware == "gtx1070"
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_model(path)


def test_caches_are_let_go_of():
    module, x = torch.nn.Linear(8, 8), torch.zeros(2, 8)
    traced = wl.trace(module, x, cached=True)
    wl.estimate(traced, load_model("a30"))
    assert recorder._SHARED and columns._packed.cache_info().currsize
    nas.clear_caches()
    assert not recorder._SHARED and not columns._packed.cache_info().currsize
    assert wl.trace(module, x, cached=True) == traced


def test_a_table_sums_more_candidates_than_a_chunk_and_takes_one_alone(model):
    space = one_of(Narrow(2), Narrow(8), Narrow(32))
    table = nas.LookupTable.of(space, model)
    each = [wl.estimate(space.trace((i,)), model).energy_j for i in range(3)]
    assert len(set(each)) == 3
    chosen = np.arange(2 * CHUNK + 5) % 3  # which no whole number of threes fits into a chunk
    assert table.energy_j(chosen[:, None]) == pytest.approx(np.array(each)[chosen], rel=1e-9)
    assert table.energy_j((1,)) == pytest.approx([each[1]], rel=1e-9)


def test_tables_and_sweeps_ask_for_the_arithmetic_and_the_batch_that_they_are_told(model):
    space = SPACES["vision-transformer"]
    few = genomes(space, 2)
    energy = {}
    for tf32, batch in (("none", 1), ("all", 1), ("all", 4)):
        energy[tf32, batch] = [wl.estimate(plain_trace(space, g, batch, tf32=tf32), model).energy_j for g in few]
        table = nas.LookupTable.of(space, model, batch, tf32=tf32).energy_j(few)
        swept = [x for _, x in nas.sweep(space, few, model, batch, tf32=tf32)]
        assert table == pytest.approx(energy[tf32, batch], rel=1e-9)
        assert swept == pytest.approx(energy[tf32, batch], rel=1e-9)
    assert energy["all", 1] != pytest.approx(energy["none", 1], rel=1e-6)
    assert energy["all", 4] != pytest.approx(energy["all", 1], rel=1e-2)


def test_probabilities_need_add_up_only_as_half_precision_does(model):
    space = one_of(Narrow(2), Narrow(8), Narrow(32))
    table = nas.LookupTable.of(space, model)
    for each in (0.332, 0.334):
        nas.expected_energy_j(table, [torch.full((3,), each)])
    for each in (0.32, 0.35):
        with pytest.raises(InputError, match="add up to"):
            nas.expected_energy_j(table, [torch.full((3,), each)])


def test_a_space_has_as_many_genomes_as_its_choices_multiply_to():
    assert nas.nas_bench_201(1).size == 5**6
    assert SPACES["once-for-all"].size == 2 * 3**5 * 9**20


def test_random_genomes_reach_every_choice():
    space = SPACES["vision-transformer"]
    drawn = genomes(space, 200)
    assert [set(column) for column in zip(*drawn)] == [set(range(n)) for n in space.choices]


def test_positions_without_labels_are_suggested_by_number():
    class Trial:
        def suggest_int(self, name, low, high):
            asked.append((name, low, high))
            return high

    asked: list[tuple[str, int, int]] = []
    space = nas.Space("bare", (2, 3), (), lambda g: nn.Identity(), lambda g: ((1,),))
    assert space.suggest(Trial()) == (1, 2)
    assert asked == [("position_0", 0, 1), ("position_1", 0, 2)]


def test_a_built_candidate_is_in_eval_mode():
    network = SPACES["nas-bench-201"].build((3,) * 6)
    assert not any(module.training for module in network.modules())


def test_a_checked_genome_is_of_plain_whole_numbers():
    genome = SPACES["nas-bench-201"].check([np.int64(1), 2.0, True, np.uint8(4), 0, 3])
    assert genome == (1, 2, 1, 4, 0, 3) and {type(x) for x in genome} == {int}


def test_parts_of_a_genome_of_another_space_are_refused():
    space = SPACES["nas-bench-201"]
    assert next(path for path, _ in space.parts((0,) * 6)) == "stem"
    with pytest.raises(InputError, match="position 5"):
        next(space.parts((0, 0, 0, 0, 0, -1)))


def test_parts_are_traced_anew_once_they_are_forgotten():
    built: list[int] = []

    @dataclass(frozen=True)
    class Counted:
        input_shapes = ((8,),)

        def build(self):
            built.append(1)
            return nn.Linear(8, 8)

    space = one_of(Counted())
    space = nas.Space(space.name, (1,), space.slots, lambda g: nn.Linear(8, 8), lambda g: ((8,),))
    for forget, times in ((False, 1), (False, 1), (True, 2)):
        if forget:
            nas.clear_caches()
        space.trace((0,))
        assert len(built) == times
    nas.clear_caches()
    nas.LookupTable.of(space, "a30")
    assert len(built) == 3, "a table asks for parts without their place"


def test_a_child_is_of_its_parents_but_for_the_share_that_is_drawn():
    space = nas.Space("wide", (10,) * 2000, (), lambda g: nn.Identity(), lambda g: ())
    mother, father = (0,) * 2000, (1,) * 2000

    def shares(mutate_frac):
        child = _child(space, mother, father, mutate_frac, random.Random(0))
        return np.bincount(child, minlength=10) / 2000

    assert shares(0.0)[:2] == pytest.approx([0.5, 0.5], abs=0.05)
    assert shares(0.2)[:2] == pytest.approx([0.42] * 2, abs=0.05), "half of 0.8, and a tenth of 0.2"
    assert shares(0.2)[2:] == pytest.approx([0.02] * 8, abs=0.015)
    assert shares(1.0) == pytest.approx([0.1] * 10, abs=0.03)


def test_the_front_is_kept_before_what_stands_apart_behind_it():
    values = {(0,): [0.0, 10.0], (1,): [5.0, 5.0], (2,): [5.1, 4.9], (3,): [10.0, 0.0], (4,): [20.0, 11.0]}
    known = {genome: np.array(x) for genome, x in values.items()}
    assert set(_select(list(known), known, 4)) == {(0,), (1,), (2,), (3,)}


def test_a_search_asks_once_a_generation_and_differs_by_its_seed():
    space = SPACES["once-for-all"]  # so large that no child was seen before

    def asked(**options):
        calls: list[list[nas.Genome]] = []

        def objectives(candidates):
            calls.append(list(candidates))
            return [[sum(g), -sum(g)] for g in candidates]

        front = nas.evolve(space, objectives, population=8, **options)
        assert front.values[:, 0].tolist() == sorted(front.values[:, 0]), "by the first objective"
        return calls

    assert [len(x) for x in asked(generations=0)] == [8]
    assert [len(x) for x in asked(generations=3, mutate_frac=1)] == [8] * 4
    assert len(asked(generations=2, mutate_frac=0)) <= 3
    assert asked(generations=1, seed=0)[0] != asked(generations=1, seed=1)[0]


def test_good_parents_outlive_bad_children(monkeypatch):
    """Children that are all worse than any parent have no children of their own."""
    space, mothers = nas.Space("line", (1000,), (), lambda g: nn.Identity(), lambda g: ()), []

    def worse(_, mother, father, *__):
        mothers.extend((mother, father))
        return (1000 + len(mothers),)

    monkeypatch.setattr("wattlayer.nas.search._child", worse)
    nas.evolve(space, lambda candidates: [g[0] for g in candidates], population=4, generations=3)
    assert len(mothers) == 3 * 4 * 2 and max(mothers) < (1000,)


CONV = ("conv2d", "batch_norm")


@pytest.mark.parametrize(
    ("part", "kinds", "product_flop"),
    [
        (parts.ConvNorm(3, 16, 32, 2, "hswish"), (*CONV, "hardswish"), 2 * 16**2 * 16 * 27),
        (parts.ConvNorm(3, 16, 32), CONV, 2 * 32**2 * 16 * 27),
        (
            parts.MobileBlock(16, 24, 64, 5, 2, "relu", 8, 8),
            (*CONV, "relu", *CONV, "relu", "adaptive_avg_pool2d", "conv2d", "relu", "conv2d", "hardsigmoid", "mul", *CONV),
            2 * (64 * 64 * 16 + 16 * 64 * 25 + 2 * 8 * 64 + 16 * 24 * 64),
        ),
        (
            parts.MobileTail(16, 96, 128, 10, 4),
            (*CONV, "hardswish", "adaptive_avg_pool2d", "conv2d", "hardswish", "linear"),
            2 * (16 * 96 * 16 + 128 * 96 + 10 * 128),
        ),
        (parts.CellEdge("none", 16, 8), ("mul",), 0),
        (parts.CellEdge("avg_pool_3x3", 16, 8), ("avg_pool2d",), 0),
        (parts.CellEdge("nor_conv_1x1", 16, 8), ("relu", *CONV), 2 * 64 * 16 * 16),
        (parts.CellNode(3, 16, 8), ("add",) * 3, 0),
        (
            parts.CellReduction(16, 8),
            ("relu", *CONV, "relu", *CONV, "avg_pool2d", "conv2d", "add"),
            2 * 16 * (32 * 9 * 16 + 32 * 9 * 32 + 32 * 16),
        ),
        (parts.CellTail(64, 10, 8), ("batch_norm", "relu", "adaptive_avg_pool2d", "linear"), 2 * 64 * 10),
        (parts.Patches(32, 4, 16), ("conv2d", "cat", "add"), 2 * 16 * 32 * 3 * 16),
        (
            parts.AttentionBlock(32, 2, 8, 48, 17),
            (
                "layer_norm",
                "linear",
                "scaled_dot_product_attention",
                "linear",
                "add",
                "layer_norm",
                "linear",
                "gelu",
                "linear",
                "add",
            ),
            2 * 17 * (32 * 48 + 2 * 17 * 16 + 16 * 32 + 2 * 32 * 48),
        ),
        (parts.TokenTail(32, 10, 17), ("layer_norm", "linear"), 2 * 32 * 10),
    ],
    ids=repr,
)
def test_a_part_is_built_as_its_sizes_say(part, kinds, product_flop):
    layers = wl.trace(part.build().eval(), *(torch.zeros(1, *shape) for shape in part.input_shapes)).layers
    assert tuple(layer.kind for layer in layers) == kinds
    assert sum(layer.flop for layer in layers if layer.group in ("conv", "matmul", "attention")) == product_flop


def test_a_node_of_a_cell_takes_as_many_images_as_arrive():
    assert parts.CellNode(3, 16, 8).input_shapes == ((16, 8, 8),) * 3
    assert parts.Patches(32, 4, 16).tokens == 17


def test_heads_of_an_attention_block_are_as_many_and_as_wide_as_it_says():
    layers = wl.trace(parts.AttentionBlock(32, 2, 8, 48, 17).build().eval(), torch.zeros(1, 17, 32)).layers
    assert next(x.inputs[0].shape for x in layers if x.group == "attention") == (1, 2, 17, 8)


def test_a_table_says_what_is_to_be_minded_of_its_layers(model):
    """What full estimates of all its candidates say together, in counts of layers."""
    space = nas.nas_bench_201(cells=1)
    table = nas.LookupTable.of(space, model, batch=64)
    assert all(len(slot.positions) < 2 for slot in space.slots), "so that one operation on all edges at a time is every part"
    estimates = [wl.estimate(space.trace((x,) * 6, batch=64), model) for x in range(5)]
    different = len({layer for e in estimates for layer in e.trace.layers})
    kinds = {kind for e in estimates for kind in e.uncovered_kinds()}
    [unseen] = [x for x in table.minds if x.startswith("kinds never measured on a30")]
    assert sorted(kinds) == unseen.partition(": ")[2].split(", ")
    far = {layer for e in estimates for layer, is_far in zip(e.trace.layers, e.extrapolated) if is_far}
    [told] = [x for x in table.minds if "far outside" in x]
    assert told.startswith(f"{len(far)} of the {different} different layers ")
    bound = {
        layer
        for e in estimates
        for layer in np.array(e.trace.layers, dtype=object)[launch_bound(e.trace.layers, e.model, "graph")]
    }
    [launches] = [x for x in table.minds if "replayed as a graph" in x]
    assert launches.startswith(f"{len(bound)} of the {different} different layers ") and 0 < len(bound) < different
    sheet = nas.LookupTable.of(space, "h100-pcie", dtype="bfloat16").minds
    assert sheet[0].startswith("nothing was measured on h100-pcie") and not any("graph" in x for x in sheet)
    old = nas.LookupTable.of(space, "gtx1070", dtype="bfloat16").minds
    assert UNSTATED.format("gtx1070", "bfloat16") in old
    assert len(table.minds) == 3
