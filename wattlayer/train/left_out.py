"""Errors of layers that were left out: what intervals are calibrated on, and the error that a model tells of itself."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Array, Columns
from ..hardware import find_hardware
from ..layer import Layer
from ..model.intervals import EXTRAPOLATED_OCTAVES, Conformal, LeftOut, Where, correlation, never_half_width
from ..model.regressor import Regressor
from ..model.support import Support
from .folds import leaving_out, numbers
from .recipe import fit
from .rows import Rows
from .transfer import teachers

MANY_ROWS = 500
"""From here on folds are worth processes of their own, which take seconds to start; threads share the interpreter."""


def judged(rows: Rows, readings: Rows, columns: Columns, seed: int, whole: Regressor) -> tuple[Conformal, float]:
    """Return intervals calibrated on layers that were left out, singly, with everything like them, and the largest together, and
    the median error of those left out singly.

    Errors are those of each of the `readings` that were merged to `rows`: an interval is to hold what is read once. How far is
    near, and where the search for rates starts, are those of the `whole`: finding them anew in each fold would take longer than
    all the rest.
    """
    from joblib import Parallel, delayed

    folds = list(leaving_out(rows, columns, seed))
    prefer = "processes" if len(rows.layers) > MANY_ROWS else "threads"
    parts = Parallel(n_jobs=-1, prefer=prefer)(delayed(_left_out)(rows, fold, seed, whole) for _, fold in folds)
    chosen = np.concatenate([np.flatnonzero(fold) for _, fold in folds])
    how, block = (np.repeat(x, [fold.sum() for _, fold in folds]) for x in ([how for how, _ in folds], range(len(folds))))
    error, distance, beyond, time_s = (np.concatenate([part[i] for part in parts]) for i in range(4))
    groups, number = np.array([x.group for x in rows.layers])[chosen], numbers(rows)[chosen]
    alike, largest = how == "alike", how == "largest"
    # a layer whose like are all left out tells of what is far; its nearest neighbours lie at the block's edge
    told = ~largest & (~alike | (distance > EXTRAPOLATED_OCTAVES))
    never = never_half_width(_kinds_left_out(rows, columns, whole))
    # a network repeats layers of one group and about one size: what such have in common stays in its sum
    common = correlation(error[alike], block[alike], groups[alike], layer=number[alike])
    single, place = of_readings(error, rows, chosen, readings)
    left_out = LeftOut(single, groups[place], distance[place], place, number[place])
    conformal = Conformal.fit(left_out.take(told[place]), common, never)
    every, where = (told | largest)[place], Where(distance, beyond, time_s).take(place)
    conformal = conformal.parted(left_out.take(every), where.take(every), float(np.median(rows.time_s)))
    return conformal, median_ape(single[(how == "singly")[place]])


def median_ape(error: Array) -> float:
    """Return the median absolute percentage error, as a fraction, of log errors [n] of predictions."""
    return float(np.median(np.abs(np.expm1(error))))


def of_readings(error: Array, rows: Rows, chosen: NDArray[np.intp], readings: Rows) -> tuple[Array, NDArray[np.intp]]:
    """Return the log-energy errors of single `readings` where those of the merged rows `chosen` are `error` [n_chosen], and the
    place in `chosen` that each of them comes from."""
    energies_j: dict[tuple[Layer, str], list[float]] = defaultdict(list)
    for layer, run, energy_j in zip(readings.layers, readings.runs, readings.time_s * readings.power_w):
        energies_j[layer, run].append(energy_j)
    own_j = [np.array(energies_j[rows.layers[i], rows.runs[i]]) for i in chosen]
    merged_j = (rows.time_s * rows.power_w)[chosen]
    place = np.repeat(np.arange(len(chosen)), [len(x) for x in own_j])
    return error[place] + np.log(merged_j[place] / np.concatenate(own_j)), place


def _left_out(rows: Rows, fold: NDArray[np.bool_], seed: int, whole: Regressor) -> tuple[Array, Array, Array, Array]:
    """Train without `fold`; return its log-energy errors, distances from the rest, octaves beyond it and predicted times."""
    inside, outside = rows.take(~fold), rows.take(fold)
    regressor, device = fit(inside, whole.hardware, seed, like=whole), find_hardware(whole.hardware)
    columns = Columns(outside.layers, device)
    kinds = frozenset(x.kind for x in inside.layers)
    support = Support.of(Columns(inside.layers, device))
    beyond = support.beyond_octaves(columns)
    log_time, log_power = regressor.log_time_power(columns, kinds, regressor.run_codes(outside.runs), beyond)
    error = log_time + log_power - np.log(outside.time_s * outside.power_w)
    return error, support.distance_octaves(columns), beyond, np.exp(log_time)


def _kinds_left_out(rows: Rows, columns: Columns, whole: Regressor) -> list[Array]:
    """Return log-energy errors on each kind as they would be had it not been measured: nothing is learned of such kinds."""
    kinds, law = np.array([x.kind for x in rows.layers]), teachers(columns.hardware)
    found = []
    for kind in sorted(set(kinds)) if len(set(kinds)) > 1 else ():
        own = rows.take(kinds == kind)
        its = Columns(own.layers, columns.hardware)
        scaffold = whole.scaffold.without(kind, rows.layers, columns, rows.time_s)
        time_s = scaffold.taught(law.log_rates if law else {}).time_s(its)
        shift = np.array([whole.run_power_shift[whole.runs.index(run)] for run in own.runs])
        found.append(np.log(time_s * whole.drawn.power_w(its, time_s, shift)) - np.log(own.time_s * own.power_w))
    return found
