"""What no law says: the part of log time and of log power that is learned, by trees and by neighbours together.

Gradient-boosted trees (Chen and Guestrin, KDD 2016) and a Gaussian process (`kriging`) err differently; their mean errs less
than either. Both are told where a library takes another algorithm (`cliffs`). Neighbours fall silent beyond the largest
measured layer, and trees are left alone where a group has none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .cliffs import NONE, Cliffs
from .features import FEATURE_NAMES, Array, Columns, featurise
from .intervals import MANY_LAYERS
from .kriging import PLATEAU, Kriging, in_parts

if TYPE_CHECKING:
    import xgboost

MODEL_FEATURES = (*FEATURE_NAMES, "run", "log2_scaffold_us", "log2_scaffold_to_roofline", PLATEAU, "log2_physical_w")
"""What is learned from: the feature table, the campaign's code, the scaffold's answer, the plateau between cliffs and, for power
only, the physical answer."""


def model_features(columns: Columns, scaffold_s: Array, run: Array, cliffs: Cliffs = NONE) -> Array:
    """Return the table [n_layers, n_model_features - 1] in `MODEL_FEATURES` order; the last feature is power's own."""
    ratio = np.log2(scaffold_s / columns.roofline_s())
    table = np.column_stack([featurise(columns), run, np.log2(scaffold_s * 1e6), ratio, np.zeros(len(run))])
    table[:, -1] = cliffs.steps(table, MODEL_FEATURES[:-1])
    return table


NOBODY = Kriging({})
"""No neighbours: the trees answer alone."""


@dataclass(frozen=True)
class Residual:
    """Trees and neighbours that answer for the same logarithm."""

    trees: xgboost.Booster
    neighbours: Kriging = NOBODY

    def ask(self, table: NDArray[np.float32], near: Array) -> Array:
        """Return answers [n] for rows [n, features], the first of `MODEL_FEATURES`, each `near` (0 to 1) to what was measured."""
        trees = _ask(self.trees, table)
        neighbours, known = self.neighbours.ask(table, MODEL_FEATURES[: table.shape[1]])
        return trees + 0.5 * near * known * (neighbours - trees)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return {"trees": json.loads(bytes(self.trees.save_raw("json"))), "neighbours": asdict(self.neighbours)["groups"]}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Residual:
        """Rebuild from JSON types; raise KeyError, TypeError, ValueError or XGBoostError for anything else."""
        import xgboost

        # one thread: to wake others for one network takes longer than its answer, and a forked process would wait for its
        # parent's for ever; reading takes threads as well, so it is told before
        one = {"nthread": 1} if "nthread" in xgboost.get_config() else {}
        with xgboost.config_context(**one):
            trees = xgboost.Booster({"nthread": 1}, model_file=bytearray(json.dumps(record["trees"]), "utf-8"))
        return Residual(trees, Kriging.from_json(record["neighbours"]))


def _ask(booster: xgboost.Booster, rows: NDArray[np.float32]) -> Array:
    """Ask a booster in place: the matrix of XGBoost's own would cost more than the trees for one network."""
    parts = 1 if len(rows) < MANY_LAYERS else 4 * (os.cpu_count() or 1)
    return in_parts(booster.inplace_predict, rows, parts).astype(np.float64)
