"""A scikit-learn regressor of energy for people who bring their own features, with intervals."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted, validate_data

from ..features.columns import Array

FOLDS = 5
"""Folds whose errors, each predicted without it, give the interval."""


class EnergyRegressor(RegressorMixin, BaseEstimator):
    """Boosted trees on the logarithm of energy, as wattlayer's own models use, for any feature table.

    Parameters: `trees`, `depth`, `learning_rate_frac` (shrinkage of each tree) and `random_state`, as in XGBoost; `target` "log"
    fits relative errors and needs positive energies, "linear" absolute ones; "auto" takes "log" where every energy is
    positive. `interval_frac` is the share of new samples that `predict_interval` is meant to hold.
    """

    def __init__(
        self,
        trees: int = 300,
        depth: int = 6,
        learning_rate_frac: float = 0.05,
        target: str = "auto",
        interval_frac: float = 0.9,
        random_state: int | None = 0,
    ) -> None:
        self.trees = trees
        self.depth = depth
        self.learning_rate_frac = learning_rate_frac
        self.target = target
        self.interval_frac = interval_frac
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> EnergyRegressor:
        """Fit features [n, k] to energies [n]; raise ValueError for `trees` or a `depth` below 1, a `learning_rate_frac` or an
        `interval_frac` outside 0 to 1, an unknown `target` or a non-positive energy under "log"."""
        for name in ("trees", "depth"):
            if not isinstance(value := getattr(self, name), Integral) or int(value) < 1:
                raise ValueError(f"{name} {value!r} must be a whole number of at least 1")
        for name in ("learning_rate_frac", "interval_frac"):
            if not isinstance(value := getattr(self, name), Real) or not 0 < float(value) <= 1:
                raise ValueError(f"{name} {value!r} must be above 0 and at most 1")
        X, y = validate_data(self, X, y, y_numeric=True, ensure_min_samples=2, dtype=np.float32)  # as trees work
        if self.target not in ("auto", "log", "linear"):
            raise ValueError(f"target {self.target!r} is not one of auto, log, linear")
        if self.target == "log" and (y <= 0).any():
            raise ValueError('target "log" needs positive energies; give target="linear" for others')
        self.log_ = self.target == "log" or (self.target == "auto" and bool((y > 0).all()))
        values = np.log(y) if self.log_ else y.astype(np.float64)
        # XGBoost splits for no gain below an absolute 1e-6, whatever the unit
        self.scale_ = float(np.std(values)) if np.ptp(values) > 0 else 1.0
        values = values / self.scale_
        self.model_ = self._fitted(X, values)
        self.half_width_ = self._half_width(X, values)
        return self

    def _fitted(self, X: Array, values: Array) -> Any:
        from xgboost import XGBRegressor

        return XGBRegressor(
            n_estimators=self.trees, max_depth=self.depth, learning_rate=self.learning_rate_frac,
            random_state=self.random_state, n_jobs=1,
        ).fit(X, values)  # fmt: skip

    def _half_width(self, X: Array, values: Array) -> float:
        """The quantile of out-of-fold errors, at the rank that a new sample needs (split conformal: Lei et al., JASA 2018); it is
        infinite where there are too few errors for that, fewer than nine for 90 %."""
        folds = KFold(min(FOLDS, len(X)), shuffle=True, random_state=self.random_state)
        errors = [np.abs(self._fitted(X[a], values[a]).predict(X[b]) - values[b]) for a, b in folds.split(X)]
        rank = int(np.ceil((len(X) + 1) * self.interval_frac))
        return float(np.sort(np.concatenate(errors))[rank - 1]) if rank <= len(X) else np.inf

    @property
    def feature_importances_(self) -> Array:
        """Share of the gain of all splits that each feature [k] brought."""
        check_is_fitted(self)
        importances: Array = self.model_.feature_importances_.astype(np.float64)
        return importances

    def predict(self, X: Any) -> Array:
        """Return energies [n] for features [n, k]."""
        return self._back(self._answer(X))

    def predict_interval(self, X: Any) -> tuple[Array, Array]:
        """Return the lower and upper energy [n] of each sample's interval; an infinite one where too few samples were fitted."""
        answer = self._answer(X)
        return self._back(answer - self.half_width_), self._back(answer + self.half_width_)

    def _answer(self, X: Any) -> Array:
        check_is_fitted(self)
        answer: Array = self.model_.predict(validate_data(self, X, reset=False, dtype=np.float32)).astype(np.float64)
        return answer

    def _back(self, values: NDArray[np.float64]) -> Array:
        values = values * self.scale_
        return np.exp(values) if self.log_ else values
