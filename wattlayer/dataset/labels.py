"""From what a campaign recorded to what a layer costs within a network: the rows that models learn and are judged by.

Tables measured elsewhere pass through as they are. Of a campaign of our own harness the layers in its preferred launch
mode count, with cold weights, at the reference layer's level; eager twins tell of the host, hot ones of the cache, and the
turns of the reference of the board. What was measured beside somebody else's work, or measured again without what had spoilt it,
does not count. Graphs that hold no kernel, or between whose replays the device waited, say nothing: the time
of a call is then not what its kernels take.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median

from ..layer import Layer
from . import REFERENCE, Measurement

REGIMES = ("cold", "diluted")
"""Of a layer that ran into the power limit alone, the diluted row is what it costs among others."""
SPOILT_FLAGS = frozenset({"foreign_process", "thermal", "counter_backwards", "clock_changed", "not_stationary", "outlier_step"})
"""What an attempt is marked with that a second one without any of it stands in for."""
IDLE_FLAGS = frozenset({"no_kernel", "gpu_not_busy"})
"""What graphs are marked with that did not keep the device busy."""
MORE = 1.3
"""How much longer one time must be than another to be longer for another reason than noise."""


def labels(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Return the rows that say what layers cost within a network, with drift taken out and sessions joined to campaigns."""
    ours = [m for m in measurements if m.regime is not None and m.layer is not None]
    graphs = {campaign(m) for m in ours if m.mode == "graph"}
    diluted = {(campaign(m), m.layer) for m in ours if m.regime == "diluted" and not idled(m)}
    again = {(campaign(m), m.key) for m in ours if _clean_again(m) and _counts(m, graphs, diluted)}
    return [_joined(m) for m in measurements if m.regime is None or (_counts(m, graphs, diluted) and not _spoilt(m, again))]


def _clean_again(m: Measurement) -> bool:
    return m.attempt > 1 and SPOILT_FLAGS.isdisjoint(m.flags)


def _spoilt(m: Measurement, again: set[tuple[str, str | None]]) -> bool:
    """Whether another process drew part of the energy, or a later attempt tells the same without what spoilt this one."""
    return "foreign_process" in m.flags or (m.attempt == 1 and m.key is not None and (campaign(m), m.key) in again)


def campaign(m: Measurement) -> str:
    """The campaign of a row: its run without the number of the session."""
    return m.run if m.regime is None else re.sub(r"/\d+$", "", m.run)


def looped(measurements: Iterable[Measurement]) -> bool:
    """Whether a host issued every kernel of these rows, in loops in eager mode."""
    return {m.mode for m in measurements} == {"eager"}


def _counts(m: Measurement, graphs: set[str], diluted: set[tuple[str, Layer | None]]) -> bool:
    if m.layer is None or m.source == REFERENCE or m.regime not in REGIMES or idled(m):
        return False
    if (m.mode == "graph") != (campaign(m) in graphs):
        return False
    return m.regime == "diluted" or (campaign(m), m.layer) not in diluted


def idled(m: Measurement) -> bool:
    """Return whether a graph did not keep the device busy, so that its time is not what its kernels take."""
    return m.mode == "graph" and not IDLE_FLAGS.isdisjoint(m.flags)


def _joined(m: Measurement) -> Measurement:
    if m.regime is None:
        return m
    return replace(m, run=campaign(m), energy_j=m.settled_j)


def networks_of(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Return the rows of whole networks, treated alike, without graphs that the device waited for, and without those that ran
    other operators than the eager pass.

    Some networks take another way while a graph is captured (transformers builds masks that it else does without). Then
    the eager pass is faster, or it burns less beyond the graph's energy than a device does that only waits.
    """
    whole = [m for m in measurements if m.network is not None and not idled(m)]
    again = {(campaign(m), m.key) for m in whole if _clean_again(m)}
    networks = [_joined(m) for m in whole if not _spoilt(m, again)]
    eager = {_call(m): m for m in networks if m.mode == "eager"}
    waits_w = [(e.energy_j - m.energy_j) / (e.time_s - m.time_s) for m in networks if (e := eager.get(_call(m))) and _waits(e, m)]
    usual_w = median(waits_w) if waits_w else 0.0
    return [m for m in networks if m.mode != "graph" or _same_operators(m, eager.get(_call(m)), usual_w)]


def _call(m: Measurement) -> tuple[object, ...]:
    return m.network, m.input_shapes, m.dtype, m.tf32, m.run


def _waits(eager: Measurement, graph: Measurement) -> bool:
    return graph.mode == "graph" and eager.time_s > MORE * graph.time_s


def _same_operators(graph: Measurement, eager: Measurement | None, usual_w: float) -> bool:
    if eager is None:
        return True
    if _waits(eager, graph):
        return (eager.energy_j - graph.energy_j) / (eager.time_s - graph.time_s) > usual_w / 2
    return graph.time_s < MORE * eager.time_s


def operators_s(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Return the host's seconds per operator, by kind, from layers measured eagerly that their kernels do not explain."""
    kernel_s: dict[object, float] = {m.layer: m.time_s for m in labels(measurements) if m.mode == "graph"}
    found: dict[str, list[float]] = {}
    for m in measurements:
        if m.regime is not None and m.mode == "eager" and m.layer in kernel_s and m.time_s > MORE * kernel_s[m.layer]:
            found.setdefault(m.layer.kind, []).append(m.time_s)  # type: ignore[union-attr]
    return {kind: median(values) for kind, values in found.items()}
