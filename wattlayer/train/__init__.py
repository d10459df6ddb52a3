"""Fitting an EnergyModel: scaffold, efficiency and power by gradient boosting, intervals from out-of-fold errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..dataset import Measurement
from ..dataset.labels import looped, operators_s
from ..errors import InputError, check_seed
from ..estimate import estimate_many
from ..features import FEATURES_VERSION
from ..features.columns import Columns
from ..hardware import find_hardware
from ..model import EnergyModel
from ..model.launches import Launches, Pass, fit_launches
from ..model.metadata import ASSUMED_POWER, Metadata
from ..model.residual import MODEL_FEATURES
from ..model.support import Support
from .left_out import judged
from .recipe import fit
from .rows import Rows, basis_of, digest, line_of, merge, of_one_device
from .transfer import from_data_sheet

if TYPE_CHECKING:
    from ..trace import Trace


def train(measurements: list[Measurement], seed: int, hardware: str | None, name: str | None, source: str) -> EnergyModel:
    """Fit a model of one device; see `EnergyModel.train`."""
    check_seed(seed)
    chosen = of_one_device(measurements, hardware)
    rows = merge(chosen)
    columns = Columns(rows.layers, find_hardware(chosen[0].hardware))
    regressor = fit(rows, columns.hardware.name, seed)
    conformal, left_out_mdape_frac = judged(rows, Rows.of(chosen), columns, seed, regressor)
    metadata = Metadata(
        name=name or regressor.hardware, hardware=regressor.hardware, features=FEATURES_VERSION, feature_names=MODEL_FEATURES,
        rows=len(chosen), layers=len(set(rows.layers)), kinds=tuple(sorted({x.kind for x in rows.layers})),
        data_sha256=digest(chosen), source=source, runs=regressor.runs, run_power_shift=regressor.run_power_shift,
        consumers_w=regressor.drawn.consumers_w, limit_w=regressor.drawn.limit_w, log_rates=regressor.scaffold.log_rates,
        support=Support.of(columns).points, conformal=conformal, seed=seed,
        taught_by=regressor.taught_by, basis=basis_of(chosen), left_out_mdape_frac=left_out_mdape_frac,
        looped=looped(m for m in chosen if m.run == regressor.runs[0]),
    )  # fmt: skip
    return EnergyModel.of(metadata, regressor)


def tell_launches(
    model: EnergyModel, networks: Sequence[tuple[Measurement, Trace]], measurements: Sequence[Measurement]
) -> EnergyModel:
    """Return `model` with what measured `networks` tell of launches, and what layers measured eagerly tell of operators.

    Too few networks leave the host to that of measured boards, where layers were measured in graphs, without one.
    """
    alone = model.with_launches(Launches(idle_w=find_hardware(model.hardware).idle_w))
    # sums and least squares end otherwise in another order, if only in their last digits
    own = sorted(((m, trace) for m, trace in networks if m.hardware == model.hardware), key=lambda x: line_of(x[0]))
    measurements = sorted(measurements, key=line_of) if own else measurements
    if own and (basis_of(m for m, _ in own) == ASSUMED_POWER) != (model.metadata.basis == ASSUMED_POWER):
        raise InputError("measured and assumed-power rows are mixed: train on one of them")
    sums = estimate_many([trace for _, trace in own], alone) if own else []
    passes = []
    for (m, trace), e in zip(own, sums):
        cached = Columns(trace.layers, find_hardware(model.hardware)).cached
        cached_s, cached_j = (float(x[cached].sum()) for x in (e.layer_time_s, e.layer_energy_j))
        passes.append(
            Pass(
                str(m.network), m.mode, trace.layers, m.time_s, m.energy_j, e.time_s, e.energy_j, cached_s, cached_j,
                layers_spread_frac=e.interval_j[1] / e.energy_j - 1,
            )
        )  # fmt: skip
    operators = operators_s([m for m in measurements if m.hardware == model.hardware])
    launches = fit_launches(passes, operators, alone.launches.idle_w)
    if launches.basis == "assumed" and not looped(m for m in measurements if m.layer and m.hardware == model.hardware):
        launches = launches.hosted_as(from_data_sheet(model.hardware).launches)
    return model if launches == alone.launches else model.with_launches(launches)
