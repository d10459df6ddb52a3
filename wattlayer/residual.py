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

import msgspec
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
    def from_json(record: Mapping[str, Any], features: int) -> Residual:
        """Rebuild what answers for so many `features` from JSON types; raise KeyError, TypeError, ValueError or XGBoostError for
        anything else."""
        import xgboost

        _check_trees(record["trees"], features)

        # one thread: to wake others for one network takes longer than its answer, and a forked process would wait for its
        # parent's for ever; reading takes threads as well, so it is told before
        one = {"nthread": 1} if "nthread" in xgboost.get_config() else {}
        with xgboost.config_context(**one):
            trees = xgboost.Booster({"nthread": 1}, model_file=bytearray(json.dumps(record["trees"]), "utf-8"))
        return Residual(trees, Kriging.from_json(record["neighbours"]))


class _Tree(msgspec.Struct):
    """What XGBoost follows of a tree, each [n_nodes]: where to go on, -1 in leaves, by which feature, and up to what."""

    left_children: list[int]
    right_children: list[int]
    split_indices: list[int]
    split_conditions: list[float]
    split_type: list[int]


def _check_trees(record: Mapping[str, Any], features: int) -> None:
    """Raise ValueError for trees of another kind than `training.boost` makes; of a damaged file XGBoost would follow indices
    out of its memory."""
    learner = record["learner"]
    parameters, booster = learner["learner_model_param"], learner["gradient_booster"]
    kind = (booster["name"], learner["objective"]["name"], parameters["num_class"], parameters["num_feature"])
    if kind != ("gbtree", "reg:squarederror", "0", str(features)) or parameters.get("num_target", "1") != "1":
        raise ValueError(f"trees are no regression of {features} features")
    for tree in msgspec.convert(booster["model"]["trees"], list[_Tree]):
        left, right, by = (np.array(x, dtype=np.int64) for x in (tree.left_children, tree.right_children, tree.split_indices))
        if not len(left) or {len(right), len(by), len(tree.split_conditions), len(tree.split_type)} != {len(left)}:
            raise ValueError("nodes of trees do not fit together")
        node, inner = np.arange(len(left)), left != -1
        children = np.stack([left, right])[:, inner]  # come after their parents: no walk is endless
        if (right[~inner] != -1).any() or (children <= node[inner]).any() or (children >= len(left)).any():
            raise ValueError("nodes of trees lead nowhere")
        if (by < 0).any() or (by >= features).any() or any(tree.split_type):
            raise ValueError("trees ask for features that there are not")


def _ask(booster: xgboost.Booster, rows: NDArray[np.float32]) -> Array:
    """Ask a booster in place: the matrix of XGBoost's own would cost more than the trees for one network."""
    parts = 1 if len(rows) < MANY_LAYERS else 4 * (os.cpu_count() or 1)
    return in_parts(booster.inplace_predict, rows, parts).astype(np.float64)
