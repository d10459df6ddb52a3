"""Pictures of an evaluation: predicted against measured, and the error by kind and by size. Needs the extra `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .evaluate import Evaluation, Predicted

SIZES = 8
"""Points of the curve of error by size: as many groups of equally many rows."""


def accuracy_figure(evaluation: Evaluation, path: Path) -> None:
    """Write a figure, one row a split, to `path` (.png, .svg or .pdf); raise InputError where it cannot be drawn."""
    figure = _figure(evaluation)
    try:
        figure.savefig(path, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise InputError(f"the plot {path} cannot be written: {error}") from None


def _figure(evaluation: Evaluation) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib: pip install 'wattlayer[plot]'") from None
    if not evaluation.predicted:
        raise InputError("there is nothing to plot: give measured layers with --layers")
    rows = len(evaluation.predicted)
    figure = Figure(figsize=(15, 4.5 * rows), layout="constrained")
    figure.suptitle(f"{evaluation.model}: energy of layers")
    for axes, predicted in zip(figure.subplots(rows, 3, squeeze=False), evaluation.predicted):
        _scatter(axes[0], predicted)
        _by_kind(axes[1], predicted)
        _by_size(axes[2], predicted)
    return figure


def _errors(p: Predicted) -> Any:
    return 100 * np.abs(p.predicted_j / p.measured_j - 1)


def _chosen(p: Predicted) -> dict[str, Any]:
    groups = np.array(p.groups)
    return {name: groups == name for name in sorted(set(p.groups))}


def _scatter(axes: Any, p: Predicted) -> None:
    for name, chosen in _chosen(p).items():
        axes.loglog(p.measured_j[chosen], p.predicted_j[chosen], ".", markersize=3, label=name)
    ends = [p.measured_j.min(), p.measured_j.max()]
    axes.loglog(ends, ends, color="0.5", linewidth=1)
    axes.set(xlabel="measured, J", ylabel="predicted, J", title=f"split: {p.split}, {len(p.groups)} rows")
    axes.legend(fontsize="small")


def _by_kind(axes: Any, p: Predicted) -> None:
    chosen = _chosen(p)
    axes.boxplot([_errors(p)[rows] for rows in chosen.values()], whis=(10, 90), showfliers=False)
    axes.set_xticks(range(1, len(chosen) + 1), list(chosen), rotation=30)
    axes.set(ylabel="absolute error, %", title="by kind: median, quartiles, 10th to 90th percentile", ylim=(0, None))


def _by_size(axes: Any, p: Predicted) -> None:
    order = np.argsort(p.flop)
    parts = [part for part in np.array_split(order, SIZES) if len(part)]
    flop = [np.median(p.flop[part]) for part in parts]
    for level, style in ((0.5, "o-"), (0.9, "s--")):
        errors = [np.quantile(_errors(p)[part], level) for part in parts]
        axes.semilogx(flop, errors, style, label="median" if level == 0.5 else "90th percentile")
    axes.set(xlabel="FLOP of the layer", ylabel="absolute error, %", title="by size", ylim=(0, None))
    axes.legend(fontsize="small")
