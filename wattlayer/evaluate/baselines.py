"""What wattlayer has to beat: seven simple predictors of a layer's energy, fitted on the same rows.

Each takes training and test rows of one device and returns energies [n_test] in joules. To add one, add a function and
its row in `BASELINES`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..features.columns import Array, Columns
from ..hardware import find_hardware
from ..quiet import quiet
from ..train.rows import Rows

RAW = (
    "kind_code", "samples", "in_channels", "in_positions", "out_channels", "out_positions", "window", "stride", "batches",
    "tf32", "train", "flop", "read_bytes", "write_bytes",
)  # fmt: skip
"""A layer's shapes, FLOP and bytes as they are, for baselines that know no hardware."""


def _columns(rows: Rows, hardware: str) -> Columns:
    return Columns(rows.layers, find_hardware(hardware))


def _energy(rows: Rows) -> Array:
    return rows.time_s * rows.power_w


def raw_shapes(rows: Rows, hardware: str, runs: tuple[str, ...]) -> Array:
    """Return `RAW` and the campaign's number as a table [n, len(RAW) + 1]."""
    columns = _columns(rows, hardware)
    run = np.array([float(runs.index(r)) if r in runs else -1.0 for r in rows.runs])
    return np.column_stack([*(columns[name] for name in RAW), run])


def _tables(train: Rows, test: Rows, hardware: str) -> tuple[Array, Array]:
    runs = tuple(sorted(set(train.runs)))
    return raw_shapes(train, hardware, runs), raw_shapes(test, hardware, runs)


def flop_proportional(train: Rows, test: Rows, hardware: str) -> Array:
    """Energy = c · FLOP, c the median over training rows with FLOP; layers without FLOP get the median energy."""
    flop = _columns(train, hardware)["flop"]
    rate = np.median((_energy(train) / np.maximum(flop, 1.0))[flop > 0])
    test_flop = _columns(test, hardware)["flop"]
    return np.where(test_flop > 0, rate * test_flop, np.median(_energy(train)))


def flop_and_bytes(train: Rows, test: Rows, hardware: str) -> Array:
    """Energy = a + b · FLOP + c · bytes, non-negative, least squares of the relative error."""
    from scipy.optimize import nnls

    def table(rows: Rows) -> Array:
        columns = _columns(rows, hardware)
        return np.column_stack([np.ones(len(rows.layers)), columns["flop"] * 1e-9, columns.bytes_moved * 1e-6])

    energy = _energy(train)
    weights, _ = nnls(table(train) / energy[:, None], np.ones(len(energy)))
    prediction: Array = table(test) @ weights
    return np.maximum(prediction, 1e-12)


def tdp_times_roofline(train: Rows, test: Rows, hardware: str) -> Array:
    """Energy = board power limit · roofline time; nothing is fitted."""
    columns = _columns(test, hardware)
    return columns.hardware.max_w * columns.roofline_s()


def polynomial(train: Rows, test: Rows, hardware: str) -> Array:
    """NeuralPower-like (Cai et al., ACML 2017): a sparse (Lasso) quadratic per kind, here in log sizes and log energy."""
    from sklearn.linear_model import LassoCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    tables = [np.log1p(np.maximum(t, 0)) for t in _tables(train, test, hardware)]
    kinds = [np.array([x.kind for x in rows.layers]) for rows in (train, test)]
    target = np.log(_energy(train))
    result = np.full(len(test.layers), np.median(target))
    for kind in set(kinds[1]) & set(kinds[0]):
        own, new = kinds[0] == kind, kinds[1] == kind
        result[new] = np.median(target[own])
        if own.sum() >= 10:
            fitted = make_pipeline(StandardScaler(), PolynomialFeatures(2), LassoCV(cv=3, max_iter=3000, alphas=20))
            with quiet():  # a lasso that stops early is still the baseline it is
                fitted.fit(tables[0][own], target[own])
            result[new] = np.clip(fitted.predict(tables[1][new]), target.min() - 2, target.max() + 2)
    return np.exp(result)


def forest(train: Rows, test: Rows, hardware: str) -> Array:
    """A random forest on raw shapes with log target."""
    from sklearn.ensemble import RandomForestRegressor

    before, after = _tables(train, test, hardware)
    fitted = RandomForestRegressor(200, n_jobs=-1, random_state=0).fit(before, np.log(_energy(train)))
    prediction: Array = np.exp(fitted.predict(after))
    return prediction


def xgboost_raw(train: Rows, test: Rows, hardware: str) -> Array:
    """The ten-line baseline: XGBoost on raw shapes with log target."""
    from xgboost import XGBRegressor

    before, after = _tables(train, test, hardware)
    fitted = XGBRegressor(
        n_estimators=600, learning_rate=0.05, max_depth=6, subsample=0.8, colsample_bytree=0.8, random_state=0, n_jobs=1
    )
    prediction: Array = np.exp(fitted.fit(before, np.log(_energy(train))).predict(after).astype(np.float64))
    return prediction


BASELINES: dict[str, Callable[[Rows, Rows, str], Array]] = {
    "FLOP": flop_proportional,
    "FLOP + bytes": flop_and_bytes,
    "TDP x roofline": tdp_times_roofline,
    "polynomial per kind": polynomial,
    "random forest, raw shapes": forest,
    "XGBoost, raw shapes": xgboost_raw,
}
"""Baselines by the name that tables print; "constant power" needs a predicted time and is made in `evaluate`."""
