"""The physical scaffold: a roofline whose rates are measured per cell of like layers, so that it extrapolates.

Of a cell the rates are drawn to those of its group, of a group to those of its nearest lender (`cells`), within bounds of physics
(`roofline`): a cell measured on small layers only cannot claim to compute or to stream faster than the device can. What a law
cannot say is left to trees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..features.columns import Array, Columns
from ..layer import Layer
from .cells import GROUP_SUFFIXES, SUFFIXES, cells, group_of, groups, lenders, variants_of
from .roofline import COMPUTE, FASTEST, PLACES, RATES, SLOWEST, START, TABLE, Terms, law, terms

SD, RUN_SD = (np.array([getattr(rate, kind) for rate in TABLE.values()]) for kind in ("sd", "run_sd"))
ALL_SD = np.where(np.array(RATES) == "host", 2.0, 1e-4)
"""What all layers share is their host, and that alone: what slows the norms of a device does not slow its other kinds."""

NOISE_SD = 0.1
"""Scatter of log time that the priors are weighed against; errors beyond 14 % count less (pseudo-Huber)."""
_ROBUST = 0.02
_TIES_SD = 0.25
"""How far tile sizes of one cell are expected to part, in log efficiency: kernels of one family are alike."""
_BELOW_START = 2.0
"""The mean of a prior is at most this far (in log rate) below `START`: what is fast in one cell is unsure in the next."""

MIN_LAYERS, MIN_ROWS_OF_RUN = 5, 3
"""A cell with fewer distinct layers takes the rates of its group, a group the start and the host of all layers, a campaign
those of its cell."""


@dataclass(frozen=True)
class Scaffold:
    """Fitted log rates per cell (and campaign, "cell:relu@run") and per group, and under "*", for everything else, `START` and
    the host of all layers."""

    log_rates: Mapping[str, tuple[float, ...]]
    runs: tuple[str, ...] = ()
    """Campaigns by their code."""

    def time_s(self, columns: Columns, run: Array | None = None) -> Array:
        """Return the scaffold's time [n_layers] in seconds, in the campaigns of codes `run` [n_layers] where they are given."""
        return np.exp(law(self._rates(columns, run), terms(columns))[0])

    def slopes(self, columns: Columns) -> Array:
        """Return how log time [n_layers, n_rates] follows each log rate."""
        return law(self._rates(columns, None), terms(columns))[1]()

    def launch_frac(self, columns: Columns) -> Array:
        """Return how log time [n_layers] follows that of a launch in the reference campaign: above 0.5 where the host takes
        longer to launch a layer than the device to work on it."""
        return law(self._rates(columns, np.zeros(len(columns.alike))), terms(columns))[1]()[:, PLACES["host"]]

    def _rates(self, columns: Columns, run: Array | None) -> Array:
        """Log rates [n_layers, n_rates]; all layers of one kind, variant and campaign share theirs."""
        of_run = np.full(len(columns.alike), len(self.runs)) if run is None or not self.runs else run.astype(np.intp)
        variants = variants_of(columns)
        codes = (columns.alike * len(SUFFIXES) + variants) * (len(self.runs) + 1) + of_run
        _, firsts, inverse = np.unique(codes, return_index=True, return_inverse=True)
        kinds, wide, names = columns.of_kind(lambda x: x.kind), columns.of_kind(lambda x: x.group), (*self.runs, "")
        table = []
        for i in firsts:
            cell, group = kinds[i] + SUFFIXES[variants[i]], wide[i] + GROUP_SUFFIXES[variants[i]]
            table.append(self.log_rates[self._known(cell, group, names[of_run[i]])])
        return np.array(table).reshape(-1, len(RATES))[inverse]

    def _known(self, cell: str, group: str, run: str) -> str:
        return next(name for name in lenders(group, cell, run) if name in self.log_rates)

    def of_first_run(self) -> Scaffold:
        """Return the scaffold as it stands in the reference campaign, without campaigns."""
        plain = {name: row for name, row in self.log_rates.items() if "@" not in name}
        own = {name: self.log_rates.get(f"{name}@{self.runs[0]}", row) if self.runs else row for name, row in plain.items()}
        return Scaffold(own)

    def taught(self, law: Mapping[str, Sequence[float]]) -> Scaffold:
        """Return this scaffold with rates for groups of which none was measured here: those that other devices have in common
        by their `law`, else, under "*", what this device's own groups show: in the middle of those that tell of a rate, where
        these are of two kinds or more (convolutions alone say little of a norm).

        How long a kernel takes to be issued and to start is the device's own in both.
        """
        own = _common(self.log_rates["*"][PLACES["host"]])
        names = [name for name in self.log_rates if name.startswith("group:")]
        groups = np.array([self.log_rates[name] for name in names]).reshape(-1, len(RATES))
        wide, telling = np.array([name.partition("/")[0] for name in names]), np.abs(groups - own) > _MOVED
        telling[:, PLACES["host"]] = False
        for i, its in enumerate(telling.T):
            if len(set(wide[its])) > 1:
                own[i] = np.median(groups[its, i])
        rates = {**self.log_rates, "*": tuple(own.tolist())}
        for name, row in law.items():
            if name != "*" and next(x for x in lenders(group_of(name)) if x in self.log_rates) == "*":
                rates[name] = tuple(np.where(_STARTING, own, row).tolist())
        return replace(self, log_rates=rates)

    def without(self, kind: str, layers: Sequence[Layer], columns: Columns, time_s: Array) -> Scaffold:
        """Return what would be known of layers of `kind` had those of measured `layers` [n] not been: what their groups teach."""
        values, weight, of_group = terms(columns), per_layer(layers), np.array(groups(columns))
        own = columns.of_kind(lambda x: x.kind) == kind
        learned = {lender for group in set(of_group[own]) for lender in lenders(group)} - {"*"}
        measured = {f"group:{group}" for group in set(of_group) if weight[of_group == group].sum() >= MIN_LAYERS - 1e-9}
        rates = {name: row for name, row in self.log_rates.items() if name in measured - learned}
        rates["*"] = tuple(float(x) for x in _common(self.log_rates["*"][PLACES["host"]]))
        for name in sorted(learned):
            others = (of_group == name.removeprefix("group:")) & ~own
            if weight[others].sum() >= MIN_LAYERS - 1e-9:
                drawn, start = _from_nearest(name.removeprefix("group:"), rates), self.log_rates.get(name)
                fitted = fit_rates(drawn, values.take(others), np.log(time_s[others]), weight[others], start)
                rates[name] = tuple(float(x) for x in fitted)
        return Scaffold(rates)

    @staticmethod
    def fit(
        layers: Sequence[Layer], columns: Columns, time_s: Array, runs: tuple[str, ...] = (), run: Array | None = None,
        like: Scaffold | None = None,
    ) -> Scaffold:  # fmt: skip
        """Fit rates to measured times [n_layers]; with campaigns `runs` and their codes `run` [n_layers], theirs as well.

        The search starts from the rates of `like` where it is given, which is faster.
        """
        values, target, weight = terms(columns), np.log(time_s), per_layer(layers)
        of_cell, starts = np.array(cells(columns)), like.log_rates if like else {}
        rates = fit_levels(values, np.array(groups(columns)), of_cell, target, lambda chosen: weight[chosen], starts)
        for code, name in enumerate(runs):
            for cell in sorted(set(of_cell[run == code])):
                chosen = (of_cell == cell) & (run == code)
                if (prior := rates.get(f"cell:{cell}")) is not None and np.count_nonzero(chosen) >= MIN_ROWS_OF_RUN:
                    own, drawn = values.take(chosen), Prior(prior, RUN_SD)
                    rates[f"cell:{cell}@{name}"] = fit_rates(drawn, own, target[chosen], np.ones(chosen.sum()), prior)
        return Scaffold({name: tuple(float(x) for x in row) for name, row in rates.items()}, runs)


_MOVED = 0.1
"""A log rate that lies no farther from `START` than this was hardly told by the layers of its group."""

_STARTING = np.isin(RATES, ("host", "latency"))


def _common(log_host: float) -> Array:
    """Log rates [rates] of all layers together: of these only the host is fitted."""
    rates: Array = START.copy()
    rates[PLACES["host"]] = log_host
    return rates


def fit_levels(
    values: Terms, of_group: NDArray[Any], of_cell: NDArray[Any], target: Array, weigh: Callable[[NDArray[np.bool_]], Array],
    starts: Mapping[str, Sequence[float]] = MappingProxyType({}),
) -> dict[str, Array]:  # fmt: skip
    """Fit log rates to log seconds `target` [n]: the host of all layers first, each group from its nearest
    lender, each cell from its group.

    `weigh` returns the weights of the rows that a mask [n] chooses; a level needs a sum of `MIN_LAYERS`.
    """
    every = np.ones(len(target), dtype=bool)
    rates = {"*": fit_rates(Prior(START, ALL_SD), values, target, weigh(every), starts.get("*"))}
    for prefix, names in (("group:", of_group), ("cell:", of_cell)):
        for name in sorted(set(names)):
            chosen = names == name
            weight = weigh(chosen)
            if weight.sum() >= MIN_LAYERS - 1e-9:
                group = str(of_group[np.argmax(chosen)])
                drawn, start = _from_nearest(group, rates), starts.get(prefix + name)
                rates[prefix + name] = fit_rates(drawn, values.take(chosen), target[chosen], weight, start)
    return rates


def per_layer(layers: Sequence[Layer]) -> Array:
    """Return weights [n_layers] that let each distinct layer count once, however often it was measured."""
    counts: dict[Layer, int] = {}
    for layer in layers:
        counts[layer] = counts.get(layer, 0) + 1
    return np.array([1.0 / counts[layer] for layer in layers])


class Prior(NamedTuple):
    """Where log rates are expected and how far off (standard deviation), both [rates]."""

    mean: Array
    sd: Array


def _from_nearest(group: str, rates: Mapping[str, Sequence[float] | Array]) -> Prior:
    """Return where the rates of a group, or of its cells, are expected: at those of its nearest lender that is known."""
    return Prior(np.array(next(rates[name] for name in lenders(group) if name in rates)), SD)


def fit_rates(prior: Prior, values: Terms, target: Array, weight: Array, start: Sequence[float] | Array | None = None) -> Array:
    """Return the log rates [rates] under which `values` [n] come closest to `target` [n], log seconds.

    Least squares in log time, robust by pseudo-Huber loss, drawn towards the prior and within its bounds. The problem has
    local minima: without a `start` it is started from a fit that is not robust, from the prior and from `START`.
    """
    prior = prior._replace(mean=np.maximum(prior.mean, START - _BELOW_START))
    if start is not None:
        return _fit(prior, values, target, weight, np.array(start))[0]
    # of what is nearly as far below as a prior may be, the first fit begins at `START`
    likely = np.where(prior.mean < START - 0.75 * _BELOW_START, START, prior.mean)
    plain, _ = _fit(prior, values, target, weight, likely, robust=1.0)
    tried = [_fit(prior, values, target, weight, x) for x in (plain, prior.mean, START)]
    return min(tried, key=lambda x: x[1])[0]


_TIED = slice(COMPUTE.start + 1, PLACES["split"] + 1)
_TIES = np.eye(len(RATES))[_TIED] - np.eye(len(RATES))[COMPUTE.start]


def _fit(prior: Prior, values: Terms, target: Array, weight: Array, start: Array, robust: float = _ROBUST) -> tuple[Array, float]:
    """Return log rates and their cost by least squares from one start."""
    from scipy.optimize import least_squares

    ridge = np.vstack([np.diag(NOISE_SD / prior.sd), NOISE_SD / _TIES_SD * _TIES])
    root = np.sqrt(weight)

    def residuals(log_rates: Array) -> tuple[Array, Callable[[], Array]]:
        log_time, slopes = law(log_rates, values)
        error = log_time - target
        bent = np.sqrt(1.0 + error**2 / robust)
        huber = error * np.sqrt(2.0 / (bent + 1.0))  # = sign(e) sqrt(2 s (sqrt(1 + e²/s) - 1)), without cancellation

        def jacobian() -> Array:
            steepness = np.sqrt((bent + 1.0) / 2.0) / bent
            return np.vstack([(root * steepness)[:, None] * slopes(), ridge])

        return np.concatenate([root * huber, ridge @ (log_rates - prior.mean)]), jacobian

    latest: list[tuple[Array, Callable[[], Array]]] = []

    def value(log_rates: Array) -> Array:
        found, jacobian = residuals(log_rates)
        latest[:] = [(log_rates.copy(), jacobian)]
        return found

    def slopes_at(log_rates: Array) -> Array:
        if not latest or not np.array_equal(latest[0][0], log_rates):
            value(log_rates)
        return latest[0][1]()

    inside = np.clip(start, FASTEST + 1e-6, SLOWEST - 1e-6)
    found = least_squares(value, inside, jac=slopes_at, bounds=(FASTEST, SLOWEST), max_nfev=80, ftol=1e-5, xtol=1e-5)
    return found.x, float(found.cost)
