"""Layers as numbers: one ordered table of features.

A layer's `dimensions` become `columns`, and these features. To add one, add one row to `FEATURES` and raise `FEATURES_VERSION`:
models trained on another version are refused with "retrain it".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .columns import Array, Columns

FEATURES_VERSION = 13


def _log(values: Array) -> Array:
    return np.log2(np.maximum(values, 1e-12))


def _filled(size: Array, edge: float) -> Array:
    """Share of the last tile that is used: 1.0 on multiples of `edge`."""
    return size / (np.maximum(np.ceil(size / edge), 1.0) * edge)


def _multiple(size: Array, *of: float) -> Array:
    """How many of the divisors `of` go into `size`."""
    return np.sum([size % divisor == 0 for divisor in of], axis=0).astype(float)


def _wave_fill(waves: Array) -> Array:
    return waves / np.maximum(1.0, np.ceil(waves))


@dataclass(frozen=True)
class Feature:
    """One column of the feature table; values are dimensionless, logarithms are to base 2."""

    name: str
    compute: Callable[[Columns], Array]


def _logs(*names: str) -> tuple[Feature, ...]:
    return tuple(Feature(f"log2_{name}", lambda c, name=name: _log(c[name])) for name in names)  # type: ignore[misc]


def _plain(*names: str) -> tuple[Feature, ...]:
    return tuple(Feature(name, lambda c, name=name: c[name]) for name in names)  # type: ignore[misc]


FEATURES: tuple[Feature, ...] = (
    *_plain("kind_code", "group_code"),
    *_logs("flop", "read_bytes", "write_bytes"),
    Feature("log2_bytes", lambda c: _log(c.bytes_moved)),
    Feature("log2_flop_per_byte", lambda c: _log(c["flop"] / np.maximum(c.bytes_moved, 1.0))),
    *_logs("batches", "m", "n", "k", "window", "in_channels", "out_channels", "in_positions", "out_positions", "samples"),
    *_logs("weight_bytes", "heads_per_kv"),
    Feature("log2_k_to_n", lambda c: _log(c["k"] / np.maximum(c["n"], 1e-9))),
    Feature("log2_m_to_n", lambda c: _log(c["m"] / np.maximum(c["n"], 1e-9))),
    Feature("log2_matrix", lambda c: _log(c["k"] * c["n"])),
    *_plain("stride", "dilation", "causal", "transposed", "train"),
    # what a bias costs that is a kernel of its own physics knows: learned, it would tell networks with batch norms from others
    Feature("operands", lambda c: c["operands"] - c.separate_bias),
    *_plain("element_bytes", "channels_last", "strided"),
    Feature("bias", lambda c: c["bias"] - c.separate_bias),
    Feature("tensor_core", lambda c: c.tensor_core),
    Feature("depthwise", lambda c: c.depthwise.astype(float)),
    Feature("positions_multiple", lambda c: _multiple(c["out_positions"], 4, 8)),
    Feature("in_channels_multiple", lambda c: _multiple(c["in_channels"], 4, 32)),
    Feature("out_channels_multiple", lambda c: _multiple(c["out_channels"], 4, 32)),
    Feature("k_aligned", lambda c: _filled(c["k"], 8.0)),
    Feature("n_aligned", lambda c: _filled(c["n"], 8.0)),
    Feature("m_filled_128", lambda c: _filled(c["m"], 128.0)),
    Feature("n_filled_128", lambda c: _filled(c["n"], 128.0)),
    Feature("n_filled_64", lambda c: _filled(c["n"], 64.0)),
    Feature("log2_waves_128", lambda c: _log(c.waves(128.0, 128.0))),
    Feature("wave_fill_128", lambda c: _wave_fill(c.waves(128.0, 128.0))),
    Feature("wave_fill_64", lambda c: _wave_fill(c.waves(64.0, 64.0))),
    Feature("wave_fill_128x64", lambda c: _wave_fill(c.waves(128.0, 64.0))),
    Feature("log2_l2_share", lambda c: _log(c.l2_share)),
    Feature("log2_compute_us", lambda c: _log(c.compute_s() * 1e6)),
    Feature("log2_memory_us", lambda c: _log(c.memory_s() * 1e6)),
    Feature("log2_roofline_us", lambda c: _log(c.roofline_s() * 1e6)),
    Feature("log2_compute_to_memory", lambda c: _log(c.compute_s() / np.maximum(c.memory_s(), 1e-12))),
)
"""The ordered table of features; its order and meaning are `FEATURES_VERSION`."""

FEATURE_NAMES = tuple(feature.name for feature in FEATURES)


def featurise(columns: Columns) -> Array:
    """Return the feature table [n_layers, n_features] in `FEATURES` order; every value is finite."""
    return np.array([feature.compute(columns) for feature in FEATURES]).T
