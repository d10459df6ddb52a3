"""Pictures: an evaluation (predicted against measured, the error by kind and by size) and a comparison of networks.

Needs the extra `plot`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..estimate import Estimate
from ..evaluate.scores import Evaluation, Judged
from ..features.columns import Array
from ..model.intervals import LEVEL
from ..whatif.compare import Comparison

SIZES = 8
"""Points of the curve of error by size: as many groups of equally many rows."""


def accuracy_figure(evaluation: Evaluation, path: Path) -> None:
    """Write a figure, one row a split, to `path` (.png, .svg or .pdf); raise InputError where it cannot be drawn."""
    if not any(row.unit == "layer" for row in evaluation.predicted):
        raise InputError("there is nothing to plot: give measured layers with --layers")
    _save(_accuracy(evaluation), path)


def comparison_figure(comparison: Comparison, path: Path) -> None:
    """Write energy per sample against batch and, at the largest, against FLOP, with intervals, to `path`; InputError as above."""
    figure = _empty(15, 6)
    series: dict[str, list[Estimate]] = {}
    for e in (row.estimate for row in comparison.rows):
        series.setdefault(f"{e.trace.network} on {e.model.where}", []).append(e)
    left, right = figure.subplots(1, 2)
    batches = sorted({row.estimate.trace.batch for row in comparison.rows})
    _against_batch(left, series, batches)
    _against_flop(right, series, batches[-1])
    figure.suptitle(f"predicted energy, intervals at {LEVEL:.0%}")
    figure.legend(*left.get_legend_handles_labels(), fontsize="small", loc="outside lower center", ncols=3)
    _save(figure, path)


def _against_batch(axes: Any, series: Mapping[str, list[Estimate]], batches: Sequence[int]) -> None:
    # a little apart, so that the intervals of one batch do not hide each other
    shifts = 2 ** np.linspace(-0.15, 0.15, len(series))
    for shift, (name, estimates) in zip(shifts, series.items()):
        at = [e.trace.batch * shift for e in estimates]
        axes.errorbar(at, *_per_sample(estimates), fmt="o-", markersize=4, capsize=2, label=name)
    axes.set(xlabel="batch", ylabel="energy per sample, J", title="by batch", xscale="log", yscale="log")
    axes.set_xticks(batches, [str(n) for n in batches])
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)


def _against_flop(axes: Any, series: Mapping[str, list[Estimate]], batch: int) -> None:
    for estimates in series.values():
        chosen = [e for e in estimates if e.trace.batch == batch]
        axes.errorbar([e.trace.flop / batch for e in chosen], *_per_sample(chosen), fmt="o", markersize=4, capsize=2)
    axes.set(xlabel="FLOP per sample", ylabel="energy per sample, J", title=f"by FLOP, batch {batch}", xscale="log", yscale="log")


def _per_sample(estimates: list[Estimate]) -> tuple[Any, Any]:
    """Energy per sample [n] and how far its interval reaches down and up [2, n], in joules."""
    energy_j = np.array([e.energy_per_sample_j for e in estimates])
    low_j, high_j = np.array([[x / e.trace.batch for x in e.interval_j] for e in estimates]).reshape(-1, 2).T
    return energy_j, np.array([energy_j - low_j, high_j - energy_j])


def _empty(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib: pip install 'wattlayer[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def check_plot(path: Path) -> None:
    """Raise InputError, before the work is done, where matplotlib is missing or cannot draw into a file of that suffix."""
    known = _empty(1, 1).canvas.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in known:
        raise InputError(f"the plot {path} has no suffix of a picture: name it .png, .svg or .pdf")


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise InputError(f"the plot {path} cannot be written: {error}") from None


@dataclass(frozen=True)
class _Points:
    """The layers of one split as arrays [n_rows]."""

    split: str
    groups: Array
    flop: Array
    measured_j: Array
    predicted_j: Array

    @staticmethod
    def of(split: str, rows: Sequence[Judged]) -> _Points:
        return _Points(
            split, np.array([x.subset for x in rows]), np.array([float(x.flop) for x in rows]),
            np.array([x.measurement.energy_j for x in rows]), np.array([x.predicted_energy_j for x in rows]),
        )  # fmt: skip


def _accuracy(evaluation: Evaluation) -> Any:
    splits: dict[str, list[Judged]] = {}
    for row in (x for x in evaluation.predicted if x.unit == "layer"):
        splits.setdefault(row.split, []).append(row)
    figure = _empty(15, 4.5 * len(splits))
    figure.suptitle(f"{evaluation.model}: energy of layers")
    for axes, points in zip(figure.subplots(len(splits), 3, squeeze=False), itertools.starmap(_Points.of, splits.items())):
        _scatter(axes[0], points)
        _by_kind(axes[1], points)
        _by_size(axes[2], points)
    return figure


def _errors(p: _Points) -> Any:
    return 100 * np.abs(p.predicted_j / p.measured_j - 1)


def _chosen(p: _Points) -> dict[str, Any]:
    return {name: p.groups == name for name in sorted(set(p.groups))}


def _scatter(axes: Any, p: _Points) -> None:
    for name, chosen in _chosen(p).items():
        axes.loglog(p.measured_j[chosen], p.predicted_j[chosen], ".", markersize=3, label=name)
    ends = [p.measured_j.min(), p.measured_j.max()]
    axes.loglog(ends, ends, color="0.5", linewidth=1)
    axes.set(xlabel="measured, J", ylabel="predicted, J", title=f"split: {p.split}, {len(p.groups)} rows")
    axes.legend(fontsize="small")


def _by_kind(axes: Any, p: _Points) -> None:
    chosen = _chosen(p)
    axes.boxplot([_errors(p)[rows] for rows in chosen.values()], whis=(10, 90), showfliers=False)
    axes.set_xticks(range(1, len(chosen) + 1), list(chosen), rotation=30)
    axes.set(ylabel="absolute error, %", title="by kind: median, quartiles, 10th to 90th percentile", ylim=(0, None))


def _by_size(axes: Any, p: _Points) -> None:
    order = np.argsort(p.flop)
    parts = [part for part in np.array_split(order, SIZES) if len(part)]
    flop = [np.median(p.flop[part]) for part in parts]
    for level, style in ((0.5, "o-"), (0.9, "s--")):
        errors = [np.quantile(_errors(p)[part], level) for part in parts]
        axes.semilogx(flop, errors, style, label="median" if level == 0.5 else "90th percentile")
    axes.set(xlabel="FLOP of the layer", ylabel="absolute error, %", title="by size", ylim=(0, None))
    axes.legend(fontsize="small")
