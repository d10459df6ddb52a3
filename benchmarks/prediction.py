"""How fast traced networks, candidates and layers turn into joules."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from timing import Row, paired, seconds

import wattlayer as wl
from wattlayer import nas
from wattlayer.adapters.torchvision import import_torchvision
from wattlayer.features.columns import Columns
from wattlayer.hardware import find_hardware

CANDIDATES = 1_000
LAYERS = 200_000


def rows(model: wl.EnergyModel, rounds: int) -> Iterator[Row]:
    yield from latency(model, rounds)
    yield from candidates(model, rounds)
    yield from table(model, rounds)
    yield from layers(model, rounds)
    yield from training(model)


def latency(model: wl.EnergyModel, rounds: int) -> Iterator[Row]:
    """One estimate of a traced network, as a loop calls it."""
    models = import_torchvision().models
    for name in ("resnet50", "vit_b_16", "efficientnet_b0"):
        with torch.device("meta"):
            traced = wl.trace(models.get_model(name, weights=None).eval(), torch.zeros(1, 3, 224, 224))
        wl.estimate(traced, model)
        taken = [seconds(lambda traced=traced: wl.estimate(traced, model)) for _ in range(20 * rounds)]
        yield Row("latency", f"estimate, {name}", 1e3 * statistics.median(taken), "ms", target="≤ 3")


def candidates(model: wl.EnergyModel, rounds: int) -> Iterator[Row]:
    """Random once-for-all candidates by parts (cold and warm) and as modules, on one core (CPU time)."""
    space, rng = nas.once_for_all(), random.Random(0)
    genomes = [space.random(rng) for _ in range(CANDIDATES)]
    cold = []
    for _ in range(rounds):
        nas.clear_caches()
        cold.append(seconds(lambda: list(nas.sweep(space, genomes, model)), time.process_time))
    warm = [seconds(lambda: list(nas.sweep(space, genomes, model)), time.process_time) for _ in range(rounds)]
    yield Row(
        "candidates",
        "once-for-all, parts traced for the first time",
        CANDIDATES / statistics.median(cold),
        "per CPU s",
        target="≥ 300",
    )
    yield Row("candidates", "once-for-all, parts known", CANDIDATES / statistics.median(warm), "per CPU s", target="≥ 300")
    few = genomes[:20]
    timed = paired(
        {
            name: (lambda cached=cached: _modules(space, few, model, cached))
            for name, cached in (("cached", True), ("plain", False))
        },
        rounds,
    )
    yield Row(
        "candidates", "once-for-all, a fresh nn.Module each, cached operators", len(few) / timed.median_s("cached"), "per s",
        "without the cache (time)", timed.ratio("cached", "plain"),
    )  # fmt: skip


def _modules(space: nas.Space, genomes: list[nas.Genome], model: wl.EnergyModel, cached: bool) -> None:
    for genome in genomes:
        with torch.device("meta"):
            network, x = space.build(genome), torch.empty(1, *space.input_shapes(genome)[0])
        wl.estimate(wl.trace(network, x, cached=cached), model)


def table(model: wl.EnergyModel, rounds: int) -> Iterator[Row]:
    """A million candidates from each table, and how far the table is from the full estimate."""
    for space in (nas.nas_bench_201(), nas.once_for_all(), nas.vision_transformer()):
        looked_up = nas.LookupTable.of(space, model)
        draw = np.random.default_rng(0)
        genomes = np.stack([draw.integers(0, n, 1_000_000, dtype=np.uint8) for n in space.choices], axis=1)
        taken = [seconds(lambda t=looked_up, g=genomes: t.energy_j(g), time.process_time) for _ in range(rounds)]
        yield Row("table", f"LookupTable, {space.name}", 1e6 / statistics.median(taken), "per CPU s", target="≥ 1,000,000")
        few = [tuple(int(x) for x in g) for g in genomes[:20]]
        full = [wl.estimate(_plain(space, g), model).energy_j for g in few]
        parts = [energy for _, energy in nas.sweep(space, few, model)]
        off = max(np.abs(looked_up.energy_j(few) / full - 1).max(), np.abs(np.array(parts) / full - 1).max())
        yield Row("table", f"largest relative difference to the plain estimate, {space.name}", float(off), "", target="≤ 1e-6")


def _plain(space: nas.Space, genome: nas.Genome) -> wl.Trace:
    with torch.device("meta"):
        network, x = space.build(genome), torch.empty(1, *space.input_shapes(genome)[0])
    return wl.trace(network, x)


def distinct_layers(count: int) -> list[wl.Layer]:
    """Layers of the spaces at as many batch sizes as make `count` different ones."""
    rng, found = random.Random(0), {}
    spaces = (nas.once_for_all(), nas.vision_transformer())
    single = {layer for space in spaces for _ in range(40) for layer in space.trace(space.random(rng)).layers}
    fitting = sorted((x for x in single if all(o.strides is None for o in x.inputs)), key=lambda x: x.digest())
    batch = 0
    while len(found) < count:
        batch += 1
        found.update(dict.fromkeys(_at_batch(x, batch) for x in fitting))
    return list(found)[:count]


def _at_batch(layer: wl.Layer, batch: int) -> wl.Layer:
    """Return a layer of one sample as it runs on `batch`; weights keep their shapes."""

    def scaled(x: wl.Operand) -> wl.Operand:
        own = x.name not in ("weight", "bias", "running_mean", "running_var") and x.shape[:1] == (1,)
        return replace(x, shape=(batch, *x.shape[1:])) if own else x

    return replace(layer, inputs=tuple(map(scaled, layer.inputs)), outputs=tuple(map(scaled, layer.outputs)))


def layers(model: wl.EnergyModel, rounds: int) -> Iterator[Row]:
    """200,000 distinct layers in one call: featurised for the first time, then again; and 200,000 calls of a sweep."""
    distinct = distinct_layers(LAYERS)
    first = seconds(lambda: Columns(distinct, find_hardware(model.hardware)))
    again = statistics.median(seconds(lambda: model.predict(distinct)) for _ in range(rounds))
    yield Row("layers", f"{LAYERS:,} distinct layers, features known", again, "s", target="≤ 1 on four cores")
    yield Row(
        "layers", f"featurising {LAYERS:,} distinct layers for the first time", first, "s", "predicting them", first / again
    )
    space, rng = nas.once_for_all(), random.Random(0)
    traces, calls = [], 0
    while calls < LAYERS:
        traces.append(space.trace(space.random(rng)))
        calls += len(traces[-1].layers)
    taken = statistics.median(seconds(lambda: wl.estimate_many(traces, model)) for _ in range(rounds))
    yield Row("layers", f"estimate_many, {len(traces):,} networks of {calls:,} calls", taken, "s", target="≤ 1 on four cores")


def training(model: wl.EnergyModel) -> Iterator[Row]:
    """Training on 2,000 layers whose figures are another model's, with 5 % noise: how long, not how well."""
    known, noise = distinct_layers(20_000)[::10], np.random.default_rng(0)
    answer = model.predict(known)
    rows = [
        wl.Measurement(
            layer=x, hardware=model.hardware, dtype=x.dtype, time_s=float(t * f), energy_j=float(t * f * p)
        )
        for x, t, p, f in zip(known, answer.time_s, answer.power_w, np.exp(0.05 * noise.standard_normal(len(known))))
    ]  # fmt: skip
    half = seconds(lambda: wl.EnergyModel.train(rows[::2]))
    whole = seconds(lambda: wl.EnergyModel.train(rows))
    yield Row("training", "1,000 layers", half, "s")
    yield Row("training", "2,000 layers", whole, "s", "1,000 layers", whole / half)
