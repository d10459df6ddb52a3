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

from ..errors import InputError
from ..features import FEATURE_NAMES, featurise
from ..features.columns import Array, Columns
from .cliffs import NONE, Cliffs
from .kriging import PLATEAU, Kriging, in_parts
from .support import MANY_LAYERS

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
        anything else, InputError for an XGBoost that reads other trees."""
        import msgspec
        import xgboost

        _check_trees(record["trees"], features)

        # one thread: to wake others for one network takes longer than its answer, and a forked process would wait for its
        # parent's for ever; reading takes threads as well, so it is told before
        one = {"nthread": 1} if "nthread" in xgboost.get_config() else {}
        with xgboost.config_context(**one):
            trees = xgboost.Booster({"nthread": 1}, model_file=bytearray(msgspec.json.encode(record["trees"])))
        if _base_score(json.loads(trees.save_config())) != _base_score(record["trees"]):
            # older ones take a number of their own, without a word, for what newer ones write as a list
            raise InputError(f"XGBoost {xgboost.__version__} reads the trees of newer ones wrongly: install xgboost 3.1 or newer")
        return Residual(trees, Kriging.from_json(record["neighbours"]))


@dataclass(frozen=True)
class _Tree:
    """What XGBoost follows of a tree, lists of [n_nodes]: where to go on, -1 in leaves, by which feature, and up to what."""

    id: int
    left_children: list[int]
    right_children: list[int]
    parents: list[int]
    split_indices: list[int]
    split_conditions: list[float]
    default_left: list[int]
    base_weights: list[float]
    loss_changes: list[float]
    sum_hessian: list[float]
    split_type: list[int]
    tree_param: dict[str, str]
    categories: list[int]
    categories_nodes: list[int]
    categories_segments: list[int]
    categories_sizes: list[int]

    def check(self, features: int) -> None:
        """Raise ValueError unless this is one tree that asks for `features` numbers."""
        nodes = len(self.left_children)
        parameters = {"num_deleted": "0", "num_feature": str(features), "num_nodes": str(nodes)}
        lengths = {len(getattr(self, name)) for name in _OF_NODES}
        if lengths != {nodes} or not nodes or self.tree_param not in [{**parameters, "size_leaf_vector": x} for x in ("0", "1")]:
            raise ValueError("nodes of trees do not fit together")
        if any(self.split_type) or any(getattr(self, name) for name in _CATEGORIES):
            raise ValueError("trees split by categories")
        left, right, parents, by = (
            np.array(x, dtype=np.int64) for x in (self.left_children, self.right_children, self.parents, self.split_indices)
        )
        node = np.arange(nodes)
        inner = node[left != -1]
        children = np.concatenate([left[inner], right[inner]])
        # every node but the root is the child of one that comes before it: no walk is endless
        whole = np.array_equal(np.sort(children), node[1:]) and (right[left == -1] == -1).all() and parents[0] == _NO_PARENT
        if not whole or (parents[children] != np.tile(inner, 2)).any() or (parents[1:] >= node[1:]).any():
            raise ValueError("nodes of trees lead nowhere")
        if (by < 0).any() or (by >= features).any():
            raise ValueError("trees ask for features that there are not")


_OF_NODES = (
    "left_children", "right_children", "parents", "split_indices", "split_conditions", "default_left", "base_weights",
    "loss_changes", "sum_hessian", "split_type",
)  # fmt: skip
_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")
_NO_PARENT = 2**31 - 1
"""XGBoost's own mark of a root."""


def _check_trees(record: Mapping[str, Any], features: int) -> None:
    """Raise KeyError, TypeError or ValueError for trees of another kind than `train.boost` makes; of a damaged file XGBoost
    would follow indices out of its memory."""
    import msgspec

    learner = record["learner"]
    parameters, booster = learner["learner_model_param"], learner["gradient_booster"]
    kind = (booster["name"], learner["objective"]["name"], parameters["num_class"], parameters["num_feature"])
    if kind != ("gbtree", "reg:squarederror", "0", str(features)) or parameters.get("num_target", "1") != "1":
        raise ValueError(f"trees are no regression of {features} features")
    trees = msgspec.convert(booster["model"]["trees"], list[_Tree])
    if booster["model"]["tree_info"] != [0] * len(trees) or any(booster["model"].get("cats", {}).values()):
        raise ValueError("trees answer for one number, without categories")
    if [tree.id for tree in trees] != list(range(len(trees))):
        raise ValueError("trees are not in their order")
    for tree in trees:
        tree.check(features)


def _base_score(record: Mapping[str, Any]) -> float:
    """Return the number that all trees' answers are added to; XGBoost writes it as text, since 3.1 as a list of one."""
    return float(record["learner"]["learner_model_param"]["base_score"].strip("[]"))


def _ask(booster: xgboost.Booster, rows: NDArray[np.float32]) -> Array:
    """Ask a booster in place: the matrix of XGBoost's own would cost more than the trees for one network."""
    parts = 1 if len(rows) < MANY_LAYERS else 4 * (os.cpu_count() or 1)
    return in_parts(booster.inplace_predict, rows, parts).astype(np.float64)
