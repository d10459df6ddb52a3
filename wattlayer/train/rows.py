"""Measured layers as arrays: what training fits, repeats merged or each as it was read."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from ..dataset import Measurement, checked
from ..dataset.labels import labels
from ..errors import InputError
from ..features.columns import Array
from ..layer import Layer
from ..model.metadata import ASSUMED_POWER

MIN_LAYERS = 20


@dataclass(frozen=True)
class Rows:
    """Measured layers as arrays [n]; `merge` joins their repeats."""

    layers: tuple[Layer, ...]
    runs: tuple[str, ...]
    time_s: Array
    power_w: Array

    @staticmethod
    def of(measurements: Sequence[Measurement]) -> Rows:
        """Return all layers as they were measured, repeats included."""
        chosen = [m for m in measurements if m.layer is not None]
        return Rows(
            tuple(m.layer for m in chosen if m.layer is not None), tuple(m.run for m in chosen),
            np.array([m.time_s for m in chosen]), np.array([m.power_w for m in chosen]),
        )  # fmt: skip

    def take(self, chosen: NDArray[np.bool_]) -> Rows:
        index = np.flatnonzero(chosen)
        layers, runs = tuple(self.layers[i] for i in index), tuple(self.runs[i] for i in index)
        return Rows(layers, runs, self.time_s[index], self.power_w[index])


def of_one_device(
    measurements: Sequence[Measurement], hardware: str | None, least: int = MIN_LAYERS, use: str = "train on"
) -> list[Measurement]:
    """Return the rows of layers of one device; raise InputError for several, for mixed meters and for too few layers."""
    measurements = checked(measurements)
    layers = [m for m in labels(measurements) if m.layer is not None and hardware in (None, m.hardware)]
    devices = sorted({m.hardware for m in layers})
    if len(devices) > 1:
        raise InputError(f"the rows are of {', '.join(devices)}: choose one with --hardware")
    if len({m.meter for m in layers}) > 1:
        raise InputError(f"measured and assumed-power rows are mixed: {use} one of them")
    distinct = len({m.layer for m in layers})
    if distinct < least:
        wanted = f" of {hardware}" if hardware else ""
        others = sorted({m.hardware for m in measurements} - {hardware})
        told = f" (rows are of {', '.join(others)})" if hardware and others else ""
        raise InputError(f"{distinct} distinct measured layers{wanted} are too few to {use}: measure at least {least}{told}")
    return layers


def basis_of(measurements: Iterable[Measurement]) -> str:
    """Return what a model of these rows, all of one meter, rests on."""
    return ASSUMED_POWER if any(m.meter == "assumed-power" for m in measurements) else "measured"


def merge(measurements: Sequence[Measurement]) -> Rows:
    """Merge repeats of a layer within a campaign by the median of time and of power; rows in another order give the same."""
    repeats: dict[tuple[Layer, str], list[Measurement]] = defaultdict(list)
    for m in measurements:
        if m.layer is not None:
            repeats[m.layer, m.run].append(m)
    # what is drawn at random depends on places: those of a digest are as good as any, and always the same
    digests = {layer: layer.digest() for layer, _ in repeats}
    order = sorted(repeats, key=lambda x: (digests[x[0]], x[1]))
    return Rows(
        tuple(layer for layer, _ in order), tuple(run for _, run in order),
        np.array([median(m.time_s for m in repeats[x]) for x in order]),
        np.array([median(m.power_w for m in repeats[x]) for x in order]),
    )  # fmt: skip


def campaigns(rows: Rows) -> tuple[str, ...]:
    """Campaigns by falling number of layers: the first is the reference."""
    return tuple(sorted(set(rows.runs), key=lambda run: (-rows.runs.count(run), run)))


def digest(measurements: Sequence[Measurement]) -> str:
    """SHA-256 of the training rows, whatever their order."""
    lines = sorted(map(line_of, measurements))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def line_of(m: Measurement) -> str:
    """Return a measurement as one line of canonical JSON, by which rows can be put in one order."""
    return json.dumps(m.to_json(), sort_keys=True)
