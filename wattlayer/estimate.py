"""From a trace and a model to joules: per layer, per kind, per module and in total, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .dataset import MODES
from .errors import InputError, UncoveredKindError, check_jobs, check_whole
from .features.columns import IN_TILES, Array, Columns, rate_of
from .hardware import find_hardware
from .layer import Layer, format_shape
from .model import EnergyModel, Prediction, load_model
from .model.intervals import LEVEL, total_half_width
from .model.launches import wait_s
from .model.metadata import Metadata
from .model.scaffold import Scaffold
from .trace import Trace
from .trace.fusion import fuse

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from .generation import Generation
    from .report.accounting import Assumptions
    from .whatif import Change

SCHEMA = 1
VERSION = "0.1.0"

TOO_LARGE = "its weights and inputs take at least {:.3g} GB and {} has {:.3g} GB of memory: priced as if they fitted"
"""Said of a pass that the device cannot run in one piece, with bytes in units of 1e9."""

UNSTATED = "no data sheet states a rate of {} in {}: products in it are priced as if they were as fast as in float32"
"""Said of a device and of dtypes that it computes in, where it may have to emulate them."""

NEVER_MEASURED = "kinds never measured on {}, priced by the scaffold: {}"
"""Said of a device and of kinds of layers."""

LAUNCH_BOUND = (
    "{} of the energy is in layers whose launch, as the model was measured, takes longer than their work on the device: "
    "replayed as a graph they should cost less"
)
"""Said of a pass in graph or compiled mode, by a share."""
LAUNCH_BOUND_FRAC = 0.05
"""The least share of the energy that it is said of."""

GAPS = "(launch gaps)"
"""Stands for a kind and a module where what the device burns waiting in eager mode is listed beside the layers."""


@cache
def torch_version() -> str:
    """Return the version of torch, which decides what operators a network is made of, without importing it."""
    return version("torch")


@dataclass(frozen=True, repr=False, eq=False)
class Estimate:
    """What one forward pass of a whole batch costs; arrays are [n_calls] in call order, energies in joules.

    An estimate equals itself alone: compare `energy_j`, or `to_json()`, of two.

    Energies are gross board energy, idle included. In eager mode `gap_s` is the time the device waits for the host and
    `gap_energy_j` what it burns meanwhile, within `gap_interval_j`; all are 0 in graph mode.
    """

    trace: Trace
    model: Metadata
    model_sha256: str
    mode: str
    layer_time_s: Array
    layer_power_w: Array
    layer_energy_j: Array
    layer_low_j: Array
    layer_high_j: Array
    covered: NDArray[np.bool_]
    extrapolated: NDArray[np.bool_]
    interval_j: tuple[float, float]
    gap_s: float = 0.0
    gap_energy_j: float = 0.0
    gap_interval_j: tuple[float, float] = (0.0, 0.0)
    """Interval of `gap_energy_j`, as wide as the host's time is unsure; `interval_j` holds it."""
    unfused: Estimate | None = None
    """In compiled mode, the same pass in graph mode: what fusion saves is the difference."""

    @property
    def energy_j(self) -> float:
        """Energy of one forward pass of the whole batch: all layers and, in eager mode, the gaps between them."""
        return float(self.layer_energy_j.sum()) + self.gap_energy_j

    @property
    def time_s(self) -> float:
        """Time of one forward pass."""
        return float(self.layer_time_s.sum()) + self.gap_s

    @property
    def power_w(self) -> float:
        """Mean board power over the pass."""
        return self.energy_j / self.time_s

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was taken for granted: by the trace, that the network fits where it is larger than the device's memory, that
        numbers without a stated rate are no slower than float32, and that launches take what they took where layers were
        measured."""
        of_device = told_of_device([self.trace], self.model.hardware)
        return (*self.trace.assumptions, *of_device, *told_of_launches(self.launch_bound_frac))

    @property
    def minds(self) -> tuple[str, ...]:
        """What a reader must know before believing the figures, in sentences: what the model rests on where it was not measured
        there, kinds never measured, layers far outside what was measured, `launch_gaps`, and `assumptions`."""
        return minds_of(self)

    @property
    def launch_gaps(self) -> str:
        """What the gaps in the launch queue cost in eager mode, and what that rests on; empty in other modes."""
        from .report.terminal import gaps_of

        return f"{gaps_of(self)} ({self.model.launching})" if self.mode == "eager" else ""

    @cached_property
    def launch_bound_frac(self) -> float:
        """Share of the energy in layers whose launch, as it was measured, takes longer than their work (`launch_bound`)."""
        return self._share(launch_bound(self.trace.layers, self.model, self.mode))

    @property
    def energy_per_sample_j(self) -> float:
        """Energy of one pass divided by the samples of its batch."""
        return self.energy_j / self.trace.batch

    @property
    def covered_frac(self) -> float:
        """Share of the energy in layers whose kind was measured on this hardware."""
        return self._share(self.covered)

    @property
    def extrapolated_frac(self) -> float:
        """Share of the energy in layers far outside what was measured."""
        return self._share(self.extrapolated)

    def _share(self, chosen: NDArray[np.bool_]) -> float:
        total = float(self.layer_energy_j.sum())
        return float(self.layer_energy_j[chosen].sum()) / total if total else 1.0

    def uncovered_kinds(self) -> list[str]:
        """Return the kinds that were never measured on this hardware, the costliest first."""
        costs: dict[str, float] = {}
        for layer, energy, covered in zip(self.trace.layers, self.layer_energy_j, self.covered):
            if not covered:
                costs[layer.kind] = costs.get(layer.kind, 0.0) + float(energy)
        return sorted(costs, key=lambda kind: -costs[kind])

    def to_frame(self) -> pandas.DataFrame:
        """Return `rows` as a table."""
        import pandas

        return pandas.DataFrame(self.rows())

    def by_kind(self) -> pandas.DataFrame:
        """Return calls, flop, time_s, energy_j and energy_frac per kind of layer, the costliest first.

        In eager mode the gaps between launches are a row of their own, `GAPS`, so that the rows sum to the total.
        """
        return self._grouped([layer.kind for layer in self.trace.layers], "kind")

    def by_module(self, depth: int = 2) -> pandas.DataFrame:
        """Return the same per module, paths cut to `depth` parts ("" is the network itself), in call order of first use.

        The gaps come last.
        """
        check_whole("depth", depth)
        return self._grouped([".".join(p.split(".")[:depth]) for p in self.trace.paths], "path", by_cost=False)

    def _grouped(self, keys: Sequence[str], name: str, by_cost: bool = True) -> pandas.DataFrame:
        import pandas

        frame = pandas.DataFrame({
            name: keys, "calls": 1, "flop": [x.flop for x in self.trace.layers],
            "time_s": self.layer_time_s, "energy_j": self.layer_energy_j,
        })  # fmt: skip
        if self.gap_s:
            frame.loc[len(frame)] = [GAPS, 0, 0, self.gap_s, self.gap_energy_j]
        total = frame.groupby(name, sort=False).sum()
        total["energy_frac"] = total["energy_j"] / max(self.energy_j, 1e-300)
        return total.sort_values("energy_j", ascending=False) if by_cost else total

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per call with the keys of `layers` in the JSON form; in eager mode a last one of the kind `GAPS`.

        Their times and energies sum to the total's. Gaps count as covered where networks measured whole told of them.
        """
        if not self.gap_s:
            return self._rows()
        gaps = {
            "index": len(self.trace.layers), "path": "", "kind": GAPS, "input_shapes": [], "output_shapes": [], "dtype": "",
            "flop": 0, "read_bytes": 0, "write_bytes": 0, "time_s": self.gap_s, "power_w": self.gap_energy_j / self.gap_s,
            "energy_j": self.gap_energy_j, "energy_low_j": self.gap_interval_j[0],
            "energy_high_j": self.gap_interval_j[1], "covered": self.model.launches_or_assumed.basis == "measured",
            "extrapolated": False,
        }  # fmt: skip
        return [*self._rows(), gaps]

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {
                "index": i, "path": self.trace.paths[i], "kind": x.kind, "input_shapes": [list(t.shape) for t in x.inputs],
                "output_shapes": [list(t.shape) for t in x.outputs], "dtype": x.dtype, "flop": x.flop,
                "read_bytes": x.read_bytes, "write_bytes": x.write_bytes, "time_s": float(self.layer_time_s[i]),
                "power_w": float(self.layer_power_w[i]), "energy_j": float(self.layer_energy_j[i]),
                "energy_low_j": float(self.layer_low_j[i]), "energy_high_j": float(self.layer_high_j[i]),
                "covered": bool(self.covered[i]), "extrapolated": bool(self.extrapolated[i]),
            }
            for i, x in enumerate(self.trace.layers)
        ]  # fmt: skip

    @property
    def total(self) -> dict[str, Any]:
        """The `total` object of the JSON form."""
        low, high = self.interval_j
        return {
            "energy_j": self.energy_j, "energy_low_j": low, "energy_high_j": high, "interval_frac": LEVEL,
            "energy_per_sample_j": self.energy_per_sample_j, "energy_per_sample_low_j": low / self.trace.batch,
            "energy_per_sample_high_j": high / self.trace.batch, "time_s": self.time_s, "power_w": self.power_w,
            "flop": self.trace.flop, "read_bytes": self.trace.read_bytes, "write_bytes": self.trace.write_bytes,
            "covered_frac": self.covered_frac, "extrapolated_frac": self.extrapolated_frac,
            "launch_bound_frac": self.launch_bound_frac,
            "gap_s": self.gap_s, "gap_energy_j": self.gap_energy_j,
            "gap_low_j": self.gap_interval_j[0], "gap_high_j": self.gap_interval_j[1],
            "gap_basis": self.model.launches_or_assumed.basis, "uncovered_kinds": self.uncovered_kinds(),
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as JSON types, schema 1."""
        model = self.model
        return {
            "schema": SCHEMA, "wattlayer": VERSION, "torch": torch_version(), "network": self.trace.network,
            "hardware": model.hardware, "dtype": self.trace.dtype, "tf32": self.trace.tf32,
            "batch": self.trace.batch, "mode": self.mode,
            "input_shapes": [list(shape) for shape in self.trace.input_shapes],
            "basis": model.basis, "assumptions": list(self.assumptions),
            "model": {"name": model.name, "sha256": self.model_sha256, "features": model.features, "rows": model.rows,
                      "source": model.source, "basis": model.basis, "conditions": model.conditions},
            "total": self.total, "layers": self._rows(),
        } | ({"unfused": {"mode": self.unfused.mode, "layers": len(self.unfused.trace.layers), "total": self.unfused.total}}
             if self.unfused else {})  # fmt: skip

    def whatif(
        self, module: nn.Module | None = None, inputs: tuple[Any, ...] = (), *, kwargs: Mapping[str, Any] | None = None,
        replace: Mapping[str, str] | Sequence[str] = (), drop: Sequence[str] = (), dtype: str | None = None,
        tf32: str | None = None, mode: str | None = None, batch: int | None = None, image_size: int | None = None,
        seq_len: int | None = None, align: bool = False, fuse_attention: bool = False, fold_norm: bool = False,
        hardware: str | Path | EnergyModel | None = None,
    ) -> Change:  # fmt: skip
        """Return what a change would do to the energy per sample, with the interval of the difference.

        A network predicted by name is loaded again; one predicted from a module needs `module`, `inputs` and `kwargs` once
        more, its dtype is found again, and a model that its name does not load must be given as `hardware`. `replace` maps
        patterns of module paths to recipes (`edits.RECIPES`), `drop` names modules. Raises InputError for a change that
        cannot be made and for a network that has other layers than those estimated.
        """
        from .whatif import whatif_estimate
        from .whatif.subject import Edit

        edit = Edit(replace, drop, dtype, tf32, mode, batch, image_size, seq_len, align, fuse_attention, fold_norm)  # type: ignore[arg-type]
        return whatif_estimate(self, edit, module, inputs, kwargs or {}, hardware)

    def to_html(self, path: str | Path | None = None, assumptions: Assumptions | None = None) -> str:
        """Return the report, one HTML page that works offline, and write it to `path`, if any; InputError where it cannot."""
        from .report.html import estimate_page

        return estimate_page(self, assumptions, path)

    def _repr_html_(self) -> str:
        from .report.notebook import estimate_html

        return estimate_html(self)

    def __repr__(self) -> str:
        low, high = self.interval_j
        return f"<Estimate {self.trace.network} on {self.model.hardware}: {self.energy_j:.4g} J ({low:.4g} to {high:.4g} J)>"

    def __str__(self) -> str:
        low, high = self.interval_j
        head = (
            f"{self.trace.network} on {self.model.hardware}, {self.trace.dtype}, batch {self.trace.batch}, {self.mode} mode: "
            f"{self.energy_j:.4g} J ({low:.4g} to {high:.4g} J at {LEVEL:.0%}), {self.time_s:.4g} s, {self.power_w:.4g} W; "
            f"{self.covered_frac:.0%} of it in measured kinds"
        )
        told = "\n".join((head, *self.minds))
        return f"{told}\n\n{self.by_kind().to_string(float_format='{:.4g}'.format)}"


def estimate(
    trace: Trace, model: EnergyModel | str | Path, mode: str = "graph", strict: bool = False, run: str | None = None
) -> Estimate:
    """Estimate one network: unique layers are predicted once, then summed over their calls.

    `model` is a loaded model, the name of one or its file. `strict` raises UncoveredKindError where a kind was never
    measured on this hardware. `run` names the campaign whose board state is meant, where the model knows several. Raises
    InputError for another one, for a batch of no samples and for a network without layers.
    """
    return estimate_many([trace], model, mode, strict, run)[0]


def told_of_device(passes: Sequence[Trace], hardware: str) -> tuple[str, ...]:
    """Say which of the `passes` over one network the memory of the device `hardware` cannot hold, and `unstated_rates`."""
    device, held_bytes = find_hardware(hardware), max(x.held_bytes for x in passes)
    rates = unstated_rates((layer for x in passes for layer in x.layers), hardware)
    if device.dram_bytes is None or held_bytes <= device.dram_bytes:
        return rates
    return (TOO_LARGE.format(held_bytes / 1e9, device.name, device.dram_bytes / 1e9), *rates)


def unstated_rates(layers: Iterable[Layer], hardware: str) -> tuple[str, ...]:
    """Return what is to be said of products in dtypes that no rate of the device `hardware` is stated for; nothing of others."""
    device = find_hardware(hardware)
    unstated = sorted({rate_of(x) for x in layers if x.group in IN_TILES and not device.states(rate_of(x))})
    return (UNSTATED.format(device.name, " and ".join(unstated)),) if unstated else ()


def who_assumes(estimates: Iterable[Estimate]) -> dict[str, list[int]]:
    """Return what the traces of several estimates and their devices take for granted (of launches nothing), each sentence once,
    with the places of the estimates that do."""
    found: dict[str, list[int]] = {}
    for place, e in enumerate(estimates):
        for text in dict.fromkeys((*e.trace.assumptions, *told_of_device([e.trace], e.model.hardware))):
            found.setdefault(text, []).append(place)
    return found


def unseen_kinds(estimates: Iterable[Estimate]) -> list[str]:
    """Say of several estimates which kinds were never measured, a sentence a device."""
    found: dict[str, dict[str, None]] = {}
    for e in estimates:
        found.setdefault(e.model.hardware, {}).update(dict.fromkeys(e.uncovered_kinds()))
    return [NEVER_MEASURED.format(name, ", ".join(x)) for name, x in found.items() if x]


def launch_bound(layers: Sequence[Layer], model: Metadata, mode: str) -> NDArray[np.bool_]:
    """Mark the `layers` [n] whose launch, as it was measured, takes longer than their work on the device by the scaffold, where a
    pass in `mode` would not pay for it: none in eager mode, of models that were not measured in loops, and on processors, which
    have no graphs."""
    device = find_hardware(model.hardware)
    if not model.looped or mode == "eager" or device.kind == "cpu":
        return np.zeros(len(layers), dtype=bool)
    return Scaffold(model.log_rates, model.runs).launch_frac(Columns(layers, device)) > 0.5


def minds_of(e: Estimate | Generation) -> tuple[str, ...]:
    """Return what a reader must know before believing the figures, the gravest first; see `Estimate.minds`."""
    return (*(x for x in (e.model.caveat,) if x), *told_of_coverage(e), *(x for x in (e.launch_gaps,) if x), *e.assumptions)


def told_of_coverage(e: Estimate | Generation, marks: tuple[str, str] = ("", "")) -> list[str]:
    """Say what share of the energy is in kinds never measured and in layers far outside what was, each after its mark."""
    from .report.quantities import share

    told, kinds = [], e.uncovered_kinds()
    if kinds:
        told.append(f"{marks[0]}{share(1 - e.covered_frac)} of the energy is in kinds never measured on {e.model.hardware}, "
                    f"priced by the scaffold: {', '.join(kinds)}")  # fmt: skip
    if e.extrapolated_frac:
        far = share(e.extrapolated_frac)
        told.append(f"{marks[1]}{far} of the energy is in layers far outside what was measured: wider intervals")
    return told


def told_of_launches(bound_frac: float) -> tuple[str, ...]:
    """Say what share of the energy is in layers that `launch_bound` marks; nothing of a small one."""
    return (LAUNCH_BOUND.format(f"{bound_frac:.0%}"),) if bound_frac >= LAUNCH_BOUND_FRAC else ()


def estimate_many(
    traces: Iterable[Trace], model: EnergyModel | str | Path, mode: str = "graph", strict: bool = False,
    run: str | None = None, n_jobs: int = 1,
) -> list[Estimate]:  # fmt: skip
    """Estimate many networks with one call of the model for all their distinct layers: to rounding the numbers of each alone.

    Raises InputError for what `estimate` refuses; no traces give none. `n_jobs` spreads the distinct layers over processes
    through joblib, and over machines under `joblib.parallel_config(backend="dask")`; it pays from about 100,000 distinct layers.
    """
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    check_jobs(n_jobs)
    if isinstance(traces, Trace):
        raise InputError(f"estimate_many takes several traces, not that of {traces.network} alone: give a list, or use estimate")
    traces = list(traces)
    for trace in traces:
        _check(trace)
    model = load_model(model)
    run_as = [fuse(trace) for trace in traces] if mode == "compiled" else traces
    layers = list(dict.fromkeys(layer for trace in (*traces, *run_as) for layer in trace.unique()))
    prediction = predict_layers(layers, model, run, n_jobs)
    if strict and not prediction.covered.all():
        kinds = sorted({x.kind for x, ok in zip(layers, prediction.covered) if not ok})
        raise UncoveredKindError(
            f"never measured on {model.hardware}: {', '.join(kinds)}; leave out --strict to get the scaffold's cost"
        )
    index = {layer: i for i, layer in enumerate(layers)}
    estimates = [_estimate(trace, model, mode, prediction, index) for trace in run_as]
    if mode != "compiled":
        return estimates
    return [replace(x, unfused=_estimate(trace, model, "graph", prediction, index)) for x, trace in zip(estimates, traces)]


def _check(trace: Trace) -> None:
    if not isinstance(trace, Trace):
        raise InputError(
            f"{trace!r:.60} is no trace: make one with wattlayer.trace, or give a network's name to wattlayer.predict"
        )
    if not trace.batch:
        shape = format_shape(trace.inputs[0].shape)
        raise InputError(f"{trace.network} reads an input of {shape}, a batch of no samples: give it at least one")
    if not trace.layers:
        raise InputError(f"{trace.network} has no layer to estimate: the network runs no operator that moves data")


def estimate_energies_j(traces: Sequence[Trace], model: EnergyModel) -> Array:
    """Return only the energy [n_traces] of each network in graph mode; the same numbers as `estimate_many`, and faster.

    One call of the model for all distinct layers, then one product with the sparse matrix of their calls. Raises InputError for
    a network that `estimate` refuses: a candidate of no joules would win every search.
    """
    for trace in traces:
        _check(trace)
    from scipy.sparse import csr_matrix

    index: dict[Layer, int] = {}
    calls = [index.setdefault(layer, len(index)) for trace in traces for layer in trace.layers]
    if not index:
        return np.zeros(len(traces))
    starts = np.cumsum([0, *(len(trace.layers) for trace in traces)])
    matrix = csr_matrix((np.ones(len(calls)), calls, starts), shape=(len(traces), len(index)))
    energies: Array = matrix @ predict_layers(list(index), model).energy_j
    return energies


def predict_layers(layers: Sequence[Layer], model: EnergyModel, run: str | None = None, n_jobs: int = 1) -> Prediction:
    """Predict `layers` [n] in the board state of campaign `run`; raise InputError for one that the model does not know."""
    if run is not None and run not in model.metadata.runs:
        raise InputError(f"model {model.name} knows no campaign {run!r}; it knows {', '.join(map(repr, model.metadata.runs))}")
    if n_jobs == 1 or not layers:
        return model.predict(layers, None if run is None else [run] * len(layers))
    from joblib import Parallel, delayed, effective_n_jobs

    size = -(-len(layers) // effective_n_jobs(n_jobs))
    parts = [layers[i : i + size] for i in range(0, len(layers), size)]
    done = Parallel(n_jobs=n_jobs)(delayed(predict_layers)(part, model, run) for part in parts)
    return Prediction(*(np.concatenate([getattr(x, f.name) for x in done]) for f in fields(Prediction)))


def _estimate(
    trace: Trace, model: EnergyModel, mode: str, prediction: Prediction, index: Mapping[Layer, int]
) -> Estimate:  # fmt: skip
    calls = np.array([index[layer] for layer in trace.layers], dtype=np.int64)
    launches, gap_s, gap_interval_j = model.launches, 0.0, (0.0, 0.0)
    if mode == "eager":
        device_s, issue_s = float(prediction.time_s[calls].sum()), launches.issue_s(trace.layers)
        low_j, high_j = launches.gap_interval_j(device_s, issue_s)
        gap_s, gap_interval_j = float(wait_s(device_s, issue_s)), (float(low_j), float(high_j))
    gap_energy_j = gap_s * launches.idle_w
    return Estimate(
        trace=trace, model=model.metadata, model_sha256=model.sha256, mode=mode,
        layer_time_s=prediction.time_s[calls], layer_power_w=prediction.power_w[calls],
        layer_energy_j=prediction.energy_j[calls], layer_low_j=prediction.energy_low_j[calls],
        layer_high_j=prediction.energy_high_j[calls], covered=prediction.covered[calls],
        extrapolated=prediction.extrapolated[calls], gap_s=gap_s, gap_energy_j=gap_energy_j,
        gap_interval_j=gap_interval_j, interval_j=launches.interval_j(
            *_sum_of(calls, prediction, model.metadata.conformal.correlation), gap_energy_j, gap_interval_j
        ),
    )  # fmt: skip


def _sum_of(calls: NDArray[np.int64], prediction: Prediction, correlation: float) -> tuple[float, float]:
    """Energy of all calls, in joules, and its half-width in log: all calls of one layer share its error in full, distinct layers
    share `correlation` of it."""
    own, count = np.unique(calls, return_counts=True)
    energy = count * prediction.energy_j[own]
    return float(energy.sum()), total_half_width(energy, prediction.half_width[own], correlation)
