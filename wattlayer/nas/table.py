"""Energies of a whole search space from a table: any candidate is a vectorised sum, exact against the full estimate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, check_whole
from ..estimate import NEVER_MEASURED, launch_bound, predict_layers, unstated_rates
from ..features.columns import Array
from ..layer import Layer
from ..model import EnergyModel, Prediction, load_model
from .space import Placed, Slot, Space, part_layers

CHUNK = 1 << 14
"""Candidates summed at a time: small enough that a chunk's columns stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class LookupTable:
    """Joules of every slot of a space for every value of its positions; energies are of one pass of the whole batch.

    Slots are independent of each other by construction, and layers add up in graph mode, so that the sum over slots is
    the full estimate's energy. Candidates given as uint8 or int64 arrays are summed fastest in Fortran order.
    """

    space: Space
    hardware: str
    batch: int
    positions: tuple[tuple[int, ...], ...]
    """What genome positions each table reads; () is what all candidates have in common."""
    tables_j: tuple[Array, ...]
    """One array per entry of `positions`, with one axis per position."""
    minds: tuple[str, ...] = ()
    """What a reader must know before believing the energies, in sentences, as `Estimate.minds`, here of all parts."""

    @staticmethod
    def of(
        space: Space, model: EnergyModel | str | Path, batch: int = 1, dtype: str = "float32", tf32: str = "conv",
        run: str | None = None,
    ) -> LookupTable:  # fmt: skip
        """Trace and predict every part of `space` once; keywords are those of `wattlayer.predict` in graph mode.

        Raises InputError for a batch that is no whole number of at least 1, an unknown `dtype`, `tf32` or `run` and for a
        space without layers.
        """
        check_whole("batch", batch)
        model = load_model(model)
        counts = [_counts(slot, space, batch, dtype, tf32) for slot in space.slots]
        layers = list({layer: None for table in counts for calls in table for layer in calls})
        if not layers:
            raise InputError(f"{space.name} has no layer to estimate")
        told = predict_layers(layers, model, run)
        of_layer = dict(zip(layers, told.energy_j))
        merged: dict[tuple[int, ...], Array] = {}
        for slot, table in zip(space.slots, counts):
            shape = [space.choices[i] for i in slot.positions]
            values = np.array([sum(float(of_layer[x]) for x in calls) for calls in table]).reshape(shape)
            merged[slot.positions] = merged[slot.positions] + values if slot.positions in merged else values
        return LookupTable(
            space, model.hardware, batch, tuple(merged), tuple(merged.values()), tuple(_minds(layers, told, model))
        )

    def energy_j(self, genomes: Any) -> Array:
        """Return the energy [n] of candidates [n, positions]; raise InputError for one that is not of this space."""
        try:
            table = np.atleast_2d(np.asarray(genomes))
        except ValueError:
            raise InputError(f"genomes of {self.space.name} are [n, {len(self.space.choices)}]: these differ in length") from None
        if table.ndim == 2 and not table.shape[1]:  # empty lists have no dtype, and no genome no width
            table = np.empty((len(genomes), 0) if len(genomes) else (0, len(self.space.choices)), dtype=np.int64)
        self._check(table)
        result = np.empty(len(table))
        for start in range(0, len(table), CHUNK):
            result[start : start + CHUNK] = self._sum(table[start : start + CHUNK])
        return result

    def _check(self, genomes: NDArray[Any]) -> None:
        if genomes.ndim != 2 or genomes.shape[1] != len(self.space.choices):
            raise InputError(f"genomes of {self.space.name} are [n, {len(self.space.choices)}], not {list(genomes.shape)}")
        if not np.issubdtype(genomes.dtype, np.integer):
            raise InputError(f"genomes are whole numbers, not {genomes.dtype}")
        if len(genomes) and np.any((genomes.min(axis=0) < 0) | (genomes.max(axis=0) >= np.array(self.space.choices))):
            row, at = np.argwhere((genomes < 0) | (genomes >= np.array(self.space.choices)))[0]
            most = self.space.choices[at] - 1
            raise InputError(f"position {at} of genome {row} of {self.space.name} is {genomes[row, at]}, not one of 0 to {most}")

    def _sum(self, genomes: NDArray[Any]) -> Array:
        columns = np.ascontiguousarray(genomes.T).astype(np.intp)
        total = np.zeros(len(genomes))
        for positions, values in zip(self.positions, self.tables_j):
            total += values.ravel().take(_flat(columns, positions, values.shape), mode="clip") if positions else float(values)
        return total


def _minds(layers: Sequence[Layer], told: Prediction, model: EnergyModel) -> Iterator[str]:
    """What is to be said of the different `layers` of a space and of the model that priced them."""
    if model.metadata.caveat:
        yield model.metadata.caveat
    if kinds := sorted({layer.kind for layer, covered in zip(layers, told.covered) if not covered}):
        yield NEVER_MEASURED.format(model.hardware, ", ".join(kinds))
    if far := int(told.extrapolated.sum()):
        yield f"{far} of the {len(layers)} different layers lie far outside what was measured"
    yield from unstated_rates(layers, model.hardware)
    if bound := int(launch_bound(layers, model.metadata, "graph").sum()):
        of = f"{bound} of the {len(layers)} different layers have launches that, as the model was measured, take longer than "
        yield f"{of}their work on the device: replayed as a graph they should cost less"


def _flat(columns: NDArray[np.intp], positions: Sequence[int], shape: Sequence[int]) -> NDArray[np.intp]:
    """Row-major index of the chosen cells [n]."""
    index = columns[positions[0]]
    for position, size in zip(positions[1:], shape[1:]):
        index = index * size + columns[position]
    return index


def _counts(slot: Slot, space: Space, batch: int, dtype: str, tf32: str) -> list[tuple[Layer, ...]]:
    """Return the layer calls of a slot for each value of its positions, the last one running fastest."""
    values = product(*(range(space.choices[i]) for i in slot.positions))
    return [tuple(_calls(slot.parts(*chosen), batch, dtype, tf32)) for chosen in values]


def _calls(parts: Sequence[Placed], batch: int, dtype: str, tf32: str) -> Iterator[Layer]:
    for _, part in parts:
        yield from part_layers(part, batch, dtype, tf32)[1]


def expected_energy_j(table: LookupTable, weights: Sequence[Any]) -> Any:
    """Return the expected energy of a relaxed space as a torch scalar of at least float32, with gradients to `weights`.

    `weights[i]` [choices[i]] are the probabilities at genome position i, drawn independently (a softmax of architecture
    parameters, as in DARTS: Liu et al., ICLR 2019; the expected cost as a penalty follows ProxylessNAS: Cai et al., ICLR
    2019). Exact: it is the mean of `LookupTable.energy_j` over genomes drawn so. Raises InputError for other shapes and
    for what are no probabilities.
    """
    import torch

    weights = list(weights)
    for i, w in enumerate(weights):
        if not isinstance(w, torch.Tensor):
            raise InputError(f"weights of {table.space.name} are torch tensors, not {type(w).__name__} (at position {i})")
    shapes = tuple(tuple(w.shape) for w in weights)
    if shapes != tuple((count,) for count in table.space.choices):
        raise InputError(f"weights of {table.space.name} have the shapes {table.space.choices}, not {shapes}")
    if weights:
        _check_probabilities([w.detach() for w in weights])
    # joules are no whole numbers, and their sums lose too much in half precision
    dtype = reduce(torch.promote_types, (w.dtype for w in weights), torch.float32)
    total: Any = 0.0
    for positions, values in zip(table.positions, table.tables_j):
        cost = torch.as_tensor(values, dtype=dtype, device=weights[0].device if weights else None)
        for position in reversed(positions):
            cost = cost @ weights[position].to(dtype)
        total = total + cost
    return total


def _check_probabilities(weights: Sequence[Any]) -> None:
    """Raise InputError for weights below 0 or that do not add up to 1, within the rounding of half precision."""
    import torch

    try:  # one wait for a device, not many
        sums = torch.stack([torch.stack((w.float().sum(), w.float().min())) for w in weights]).tolist()
    except RuntimeError:  # under torch.func.vmap they have no values
        return
    for i, (total, least) in enumerate(sums):
        if not (abs(total - 1) <= 0.01 and least >= 0):
            found = f"weights at position {i} add up to {total:.4g}, the least is {least:.4g}"
            raise InputError(f"{found}: give probabilities, as softmax does")
