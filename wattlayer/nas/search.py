"""Search over a space: a plain evolutionary search with a Pareto front, and sweeps that stream full estimates."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, check_jobs, check_whole, first_line
from ..estimate import estimate_energies_j
from ..features.columns import Array
from ..model import EnergyModel, load_model
from .space import Genome, Space

Objectives = Callable[[Sequence[Genome]], Any]
"""From n genomes to an array [n, objectives], or [n] of one objective, every one to be made small; inf in any of them for
a candidate that cannot be, which is in no front."""


@dataclass(frozen=True, eq=False)
class Front:
    """The candidates that no other one found beats in every objective, by the first objective."""

    genomes: tuple[Genome, ...]
    values: NDArray[np.float64]
    """[n, objectives]"""


def pareto(values: Any) -> NDArray[np.bool_]:
    """Return which rows of `values` [n, objectives], or [n] of one objective, no other row beats: none is as small everywhere and
    smaller somewhere.

    Raises InputError for other shapes and for NaN, which nothing beats.
    """
    try:
        table = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise InputError("values are numbers [n, objectives]: these are none, or differ in length") from None
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2:
        raise InputError(f"values are [n, objectives], not {list(table.shape)}")
    if np.isnan(table).any():
        raise InputError(f"values of row {int(np.isnan(table).any(axis=1).argmax())} are not a number: leave it out")
    if not table.size:
        return np.ones(len(table), dtype=bool)
    if table.shape[1] == 2:
        return _two_ranks(table) == 0
    order = np.lexsort(table.T[::-1])
    kept: list[int] = []
    for i in order:  # a row can only be beaten by one that sorts before it
        front = table[kept]
        beaten = (front <= table[i]).all(axis=1) & (front < table[i]).any(axis=1)
        if not beaten.any():
            kept.append(int(i))
    mask = np.zeros(len(table), dtype=bool)
    mask[kept] = True
    return mask


def _two_ranks(table: Array) -> NDArray[np.int64]:
    """Return the rank [n] of each row of two objectives in one pass: rows come in the order of the first, so that those before
    beat one where they are as small in the second, and the fronts' least second objectives rise from front to front."""
    rows, place = np.unique(table + 0.0, axis=0, return_inverse=True)  # rows that are equal share a rank; -0.0 is 0.0
    least: list[float] = []
    rank = np.empty(len(rows), dtype=np.int64)
    for i, second in enumerate(rows[:, 1].tolist()):
        rank[i] = front = bisect_right(least, second)
        least[front : front + 1] = [second]
    return rank[place.reshape(-1)]


def ranks(values: Array) -> NDArray[np.int64]:
    """Return the rank [n] of each row: 0 for the Pareto front, 1 for the front of the rest, and so on."""
    if values.ndim == 2 and values.shape[1] == 2:
        return _two_ranks(values)
    rank = np.zeros(len(values), dtype=np.int64)
    left = np.arange(len(values))
    while len(left):
        best = pareto(values[left])
        left = left[~best]
        rank[left] += 1
    return rank


def crowding(values: Array) -> Array:
    """Return how far apart [n] the neighbours of each row are, infinite at the ends (NSGA-II: Deb et al., 2002)."""
    distance = np.zeros(len(values))
    for column in np.minimum(values, np.finfo(np.float64).max / 4).T:  # infinities have no difference
        order = np.argsort(column, kind="stable")
        gap = (column[order][2:] - column[order][:-2]) / max(float(np.ptp(column)), 1e-300)
        distance[order[1:-1]] += gap
        distance[order[[0, -1]]] = np.inf
    return distance


def evolve(
    space: Space, objectives: Objectives, population: int = 64, generations: int = 30, mutate_frac: float = 0.1, seed: int = 0
) -> Front:
    """Search `space` by crossover and mutation, selecting by rank and crowding; return the front of all candidates seen.

    `objectives` gets only genomes that it was not asked about before. Deterministic by `seed`. Raises InputError for a
    population below 1, generations below 0, a `mutate_frac` outside 0 to 1, a `seed` that is no whole number of at least 0, and
    for objectives of another shape or that are no numbers.
    """
    check_whole("population", population)
    check_whole("generations", generations, 0)
    check_whole("seed", seed, 0)
    if not isinstance(mutate_frac, Real) or not 0 <= mutate_frac <= 1:
        raise InputError(f"mutate_frac {mutate_frac!r} must be between 0 and 1")
    rng = random.Random(int(seed))
    known: dict[Genome, Array] = {}
    _ask(known, [space.random(rng) for _ in range(population)], objectives)
    parents = list(known)
    for _ in range(generations):
        children = [_child(space, rng.choice(parents), rng.choice(parents), mutate_frac, rng) for _ in range(population)]
        _ask(known, children, objectives)
        parents = _select(list(dict.fromkeys([*parents, *children])), known, population)
    genomes, values = list(known), np.array(list(known.values()))
    best = pareto(values) & np.isfinite(values).all(axis=1)
    chosen = [int(i) for i in np.lexsort(values.T[::-1]) if best[i]]
    return Front(tuple(genomes[i] for i in chosen), values[chosen])


def _ask(known: dict[Genome, Array], genomes: Sequence[Genome], objectives: Objectives) -> None:
    new = [g for g in dict.fromkeys(genomes) if g not in known]
    if not new:
        return
    answer = objectives(new)
    try:
        values = np.array(answer, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"objectives of {len(new)} genomes are no table of numbers: {first_line(error)}") from None
    table = values[:, None] if values.ndim == 1 else values
    width = len(next(iter(known.values()))) if known else None
    if table.ndim != 2 or not table.size or table.shape != (len(new), width or table.shape[1]):
        raise InputError(f"objectives of {len(new)} genomes are [{len(new)}, {width or 'objectives'}], not {list(values.shape)}")
    for genome, row in zip(new, table):
        if np.isnan(row).any() or np.isneginf(row).any():  # nothing beats what is no number: it would fill the front
            raise InputError(
                f"objectives of genome {genome} are {row.tolist()}: give finite numbers, or inf for a candidate that cannot be"
            )
    table[np.isinf(table).any(axis=1)] = np.inf
    known.update(zip(new, table))


def _child(space: Space, mother: Genome, father: Genome, mutate_frac: float, rng: random.Random) -> Genome:
    crossed = (rng.choice(pair) for pair in zip(mother, father))
    return tuple(rng.randrange(n) if rng.random() < mutate_frac else x for x, n in zip(crossed, space.choices))


def _select(genomes: list[Genome], known: dict[Genome, Array], count: int) -> list[Genome]:
    values = np.array([known[g] for g in genomes])
    order = np.lexsort((-crowding(values), ranks(values)))
    return [genomes[i] for i in order[:count]]


def sweep(
    space: Space, genomes: Iterable[Sequence[int]], model: EnergyModel | str | Path, batch: int = 1, dtype: str = "float32",
    tf32: str = "conv", n_jobs: int = 1, chunk: int = 256,
) -> Iterator[tuple[Genome, float]]:  # fmt: skip
    """Yield each candidate with its energy (J per pass of the batch) by the full estimate, in the order given.

    `genomes` may be endless: `chunk` are traced and estimated at a time. `n_jobs` spreads chunks over processes through
    joblib, and over machines under `joblib.parallel_config(backend="dask")` (extra `distributed`). Raises InputError for a
    genome of another space, for a batch or a chunk below 1 and for no processes.
    """
    check_whole("chunk", chunk)
    check_jobs(n_jobs)
    from joblib import Parallel, delayed

    model = load_model(model)
    chunks = _chunks(space, genomes, chunk)
    jobs = (delayed(_energies_j)(space, part, model, batch, dtype, tf32) for part in chunks)
    results = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    for part, energies in results:
        yield from zip(part, energies)


def _energies_j(
    space: Space, genomes: list[Genome], model: EnergyModel, batch: int, dtype: str, tf32: str
) -> tuple[list[Genome], list[float]]:
    traces = [space.trace(genome, batch, dtype, tf32) for genome in genomes]
    return genomes, [float(x) for x in estimate_energies_j(traces, model)]


def _chunks(space: Space, genomes: Iterable[Sequence[int]], size: int) -> Iterator[list[Genome]]:
    remaining = iter(genomes)
    while part := [space.check(genome) for genome in islice(remaining, size)]:
        yield part
