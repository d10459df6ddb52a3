"""The Layer record: JSON, digests, pickles, TF32 and the FLOP and bytes of every group against hand computed values."""

from __future__ import annotations

import ast
import copy
import json
import os
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattlayer.errors import InputError
from wattlayer.kinds import KINDS
from wattlayer.layer import DTYPE_BYTES, Layer, Operand

ROOT = Path(__file__).parents[1]


def op(name: str, *shape: int, dtype: str = "float32", strides: tuple[int, ...] | None = None) -> Operand:
    return Operand(name, shape, dtype, strides)


def layer(kind: str, inputs: list[Operand], *outputs: Operand, **arguments: Any) -> Layer:
    return Layer(kind, tuple(inputs), outputs, tuple(sorted(arguments.items())))


X = op("self", 2, 8, 4, 4)
GRID = op("grid", 2, 8, 8, 2)
ROIS = [op("input", 1, 4, 16, 16), op("rois", 3, 5)]
CONV = layer(
    "conv2d",
    [op("input", 2, 3, 8, 8), op("weight", 4, 3, 3, 3), op("bias", 4)],
    op("output", 2, 4, 4, 4),
    stride=(2, 2),
    padding=(1, 1),
)

LSTM = [
    op("input", 5, 2, 3), op("hx", 1, 2, 4), op("hx", 1, 2, 4), op("params", 16, 3), op("params", 16, 4), op("params", 16),
    op("params", 16),
]  # fmt: skip

# (layer, FLOP, bytes read, bytes written), each worked out by hand
COUNTS: dict[str, tuple[Layer, int, int, int]] = {
    "conv2d": (CONV, 2 * (2 * 4 * 4) * (4 * 3 * 9), 4 * (384 + 108 + 4), 4 * 128),
    "grouped conv2d": (
        layer("conv2d", [op("input", 1, 8, 6, 6), op("weight", 8, 2, 3, 3)], op("output", 1, 8, 4, 4), groups=4),
        2 * 16 * 8 * 2 * 9, 4 * (288 + 144), 4 * 128,
    ),
    "conv1d without a batch": (
        layer("conv1d", [op("input", 3, 10), op("weight", 5, 3, 3)], op("output", 5, 8)), 2 * 8 * 45, 4 * (30 + 45), 4 * 40,
    ),
    "transposed conv": (
        layer("conv_transpose2d", [op("input", 2, 4, 3, 3), op("weight", 4, 5, 2, 2)], op("output", 2, 5, 6, 6)),
        2 * (2 * 9) * 80, 4 * (72 + 80), 4 * 360,
    ),
    "linear": (
        layer("linear", [op("input", 7, 5), op("weight", 3, 5), op("bias", 3)], op("output", 7, 3)),
        2 * 7 * 3 * 5, 4 * 53, 4 * 21,
    ),
    "bmm": (layer("bmm", [op("self", 2, 3, 4), op("mat2", 2, 4, 5)], op("output", 2, 3, 5)), 2 * 2 * 3 * 4 * 5, 4 * 64, 4 * 30),
    "addmm": (
        layer("addmm", [op("self", 6), op("mat1", 2, 3), op("mat2", 3, 6)], op("output", 2, 6)), 2 * 2 * 3 * 6, 4 * 30, 4 * 12,
    ),
    "grouped mm": (
        layer("_grouped_mm", [op("self", 10, 4), op("mat2", 3, 4, 6)], op("output", 10, 6)), 2 * 10 * 4 * 6, 4 * 112, 4 * 60,
    ),
    "grouped mm of more matrices than rows": (
        layer("_grouped_mm", [op("self", 2, 4), op("mat2", 64, 4, 6)], op("output", 2, 6)),
        2 * 2 * 4 * 6, 4 * (8 + 2 * 24), 4 * 12,
    ),
    "attention": (
        layer("scaled_dot_product_attention",
              [op("query", 2, 4, 6, 8), op("key", 2, 4, 9, 8), op("value", 2, 4, 9, 5)], op("output", 2, 4, 6, 5)),
        2 * (2 * 4 * 6) * 9 * 8 + 2 * (2 * 4 * 6) * 9 * 5, 4 * (384 + 576 + 360), 4 * 240,
    ),
    "lstm": (layer("lstm", LSTM, op("output", 5, 2, 4)), 2 * (5 * 2) * (48 + 64), 4 * (30 + 16 + 48 + 64 + 32), 4 * 40),
    "batch norm": (layer("batch_norm", [X, op("weight", 8), op("bias", 8)], X), 2 * 256, 4 * 272, 4 * 256),
    "batch norm in training": (layer("batch_norm", [X, op("weight", 8)], X, training=True), 5 * 256, 4 * 264, 4 * 256),
    "plain layer norm": (layer("layer_norm", [op("input", 3, 6)], op("output", 3, 6)), 4 * 18, 72, 72),
    "affine layer norm": (layer("layer_norm", [op("input", 3, 6), op("weight", 6)], op("output", 3, 6)), 5 * 18, 96, 72),
    "softmax": (layer("softmax", [op("self", 3, 6)], op("output", 3, 6), dim=-1), 5 * 18, 72, 72),
    "max pool": (layer("max_pool2d", [X], op("output", 2, 8, 2, 2), kernel_size=(2, 3)), 64 * 6, 4 * 256, 4 * 64),
    "average pool of one size": (layer("avg_pool3d", [op("self", 1, 2, 4, 4, 4)], op("output", 1, 2, 2, 2, 2), kernel_size=(2,)),
                                 16 * 8, 4 * 128, 4 * 16),
    "mean": (layer("mean", [X], op("output", 2, 8)), 256, 4 * 256, 4 * 16),
    "sort": (layer("sort", [op("self", 3, 8)], op("values", 3, 8), op("indices", 3, 8, dtype="int64")), 24 * 3, 96, 96 + 192),
    "sort along another dimension": (
        layer("sort", [op("self", 8, 3)], op("values", 8, 3), op("indices", 8, 3, dtype="int64"), dim=0), 24 * 3, 96, 96 + 192,
    ),
    "consecutive ones of all": (layer("unique_consecutive", [op("self", 4, 4)], op("output", 9)), 16 * 4, 64, 36),
    "consecutive rows": (layer("unique_consecutive", [op("self", 4, 4)], op("output", 3, 4), dim=0), 16 * 2, 64, 48),
    "few values among many": (  # 10 comparisons for each of 3 values
        layer("searchsorted", [op("sorted_sequence", 1024), op("self", 3)], op("output", 3, dtype="int64")), 30, 12 + 120, 24,
    ),
    "many values among few": (
        layer("bucketize", [op("self", 5, 20), op("boundaries", 8)], op("output", 5, 20, dtype="int64")), 300, 400 + 32, 800,
    ),
    "few values among many in another order": (
        layer(
            "searchsorted", [op("sorted_sequence", 1024), op("self", 3), op("sorter", 1024, dtype="int64")],
            op("output", 3, dtype="int64"),
        ), 30, 12 + 120 + 240, 24,
    ),
    "a number among many": (
        layer("searchsorted", [op("sorted_sequence", 1024)], op("output", dtype="int64")), 10, 40, 8,
    ),
    "grid": (layer("grid_sampler", [X, GRID], op("output", 2, 8, 8, 8), interpolation_mode=0), 8 * 1024, 1024 + 1024, 4096),
    "nearest grid": (layer("grid_sampler", [X, GRID], op("output", 2, 8, 8, 8), interpolation_mode=1), 2048, 2048, 4096),
    "bicubic grid": (layer("grid_sampler", [X, GRID], op("output", 2, 8, 8, 8), interpolation_mode=2), 32 * 1024, 2048, 4096),
    "antialiased": (layer("_upsample_bilinear2d_aa", [X], op("output", 2, 8, 1, 2)), 2 * 4 * 4 * 2 * 32, 1024, 128),
    "antialiased by a quarter, which takes two steps an axis": (
        layer("_upsample_bilinear2d_aa", [X], op("output", 2, 8, 3, 3)), 2 * 4 * 4 * 144, 1024, 576,
    ),
    "regions by three points an axis": (
        layer("torchvision::roi_align", ROIS, op("output", 3, 4, 7, 7), sampling_ratio=3),
        8 * 9 * 588, 4 * (1024 + 15), 4 * 588,
    ),
    "regions by as many points as they need": (
        layer("torchvision::roi_align", ROIS, op("output", 3, 4, 7, 7), sampling_ratio=-1),
        8 * 4 * 588, 4 * (1024 + 15), 4 * 588,
    ),
    "nothing, expanded": (layer("mul", [op("self", 0, 5, strides=(8, 1))], op("output", 0, 5)), 0, 0, 0),
    "windows that overlap": (  # 4 rows of 8 numbers, of each 5 windows of 4
        layer("mul", [op("self", 4, 5, 4, strides=(8, 1, 1))], op("output", 4, 5, 4)), 80, 4 * 32, 4 * 80,
    ),
    "bilinear": (layer("upsample_bilinear2d", [X], op("output", 2, 8, 8, 8)), 2 * 4 * 1024, 4 * 256, 4 * 1024),
    "bicubic": (layer("upsample_bicubic2d", [X], op("output", 2, 8, 8, 8)), 2 * 16 * 1024, 4 * 256, 4 * 1024),
    "fft": (
        layer("_fft_c2c", [op("self", 2, 16, dtype="complex64")], op("output", 2, 16, dtype="complex64")),
        5 * 32 * 4, 256, 256,
    ),
    "fft of another dimension": (
        layer("fft_fft", [op("self", 16, 3, dtype="complex64")], op("output", 16, 3, dtype="complex64"), dim=0),
        5 * 48 * 4, 8 * 48, 8 * 48,
    ),
    "fft of two dimensions": (
        layer("fft_fft2", [op("self", 3, 4, 8, dtype="complex64")], op("output", 3, 4, 8, dtype="complex64")),
        5 * 96 * 5, 8 * 96, 8 * 96,
    ),
    "real fft of all dimensions": (
        layer("_fft_r2c", [op("self", 4, 8)], op("output", 4, 5, dtype="complex64"), dim=(0, 1), onesided=True),
        5 * 32 * 5, 4 * 32, 8 * 20,
    ),
    "real fft of padded rows": (
        layer("fft_rfft", [op("self", 3, 6)], op("output", 3, 5, dtype="complex64"), n=8), 5 * 24 * 3, 4 * 18, 8 * 15,
    ),
    "real fft of padded images": (
        layer("fft_rfft2", [op("self", 3, 6)], op("output", 4, 5, dtype="complex64"), s=(4, 8)), 5 * 32 * 5, 4 * 18, 8 * 20,
    ),
    "real fft of columns": (
        layer("fft_rfft", [op("self", 8, 3)], op("output", 5, 3, dtype="complex64"), dim=0), 5 * 24 * 3, 4 * 24, 8 * 15,
    ),
    "inverse real fft": (
        layer("fft_irfft", [op("self", 3, 5, dtype="complex64")], op("output", 3, 8)), 5 * 24 * 3, 8 * 15, 4 * 24,
    ),
    "product of bytes": (
        layer("_int_mm", [op("self", 4, 8, dtype="int8"), op("mat2", 8, 5, dtype="int8")], op("output", 4, 5, dtype="int32")),
        2 * 4 * 8 * 5, 72, 80,
    ),
    "product with a weight of bytes": (
        layer("_weight_int8pack_mm", [op("self", 4, 8), op("mat2", 5, 8, dtype="int8"), op("scales", 5)], op("output", 4, 5)),
        2 * 4 * 8 * 5, 4 * 32 + 40 + 4 * 5, 80,
    ),
    "product with a weight of two numbers a byte": (
        layer("linear", [op("input", 4, 8), op("weight", 5, 7, dtype="int4"), op("scale", 5, 1, 2)], op("output", 4, 5)),
        2 * 4 * 8 * 5, 4 * 32 + 18 + 4 * 10, 80,
    ),
    "product with tiles of a packed weight": (
        layer(
            "_weight_int4pack_mm_for_cpu", [op("self", 4, 8), op("mat2", 5, 4, dtype="uint8"), op("qScaleAndZeros", 1, 5, 2)],
            op("output", 4, 5),
        ),
        2 * 4 * 8 * 5, 4 * 32 + 20 + 4 * 10, 80,
    ),
    "sum of products": (
        layer("addbmm", [op("self", 2, 5), op("batch1", 3, 2, 4), op("batch2", 3, 4, 5)], op("output", 2, 5)),
        2 * 3 * 2 * 4 * 5, 4 * (10 + 24 + 60), 4 * 10,
    ),
    "Euclidean distances": (
        layer("cdist", [op("x1", 2, 3, 4), op("x2", 2, 5, 4)], op("output", 2, 3, 5)), 2 * 30 * 4, 4 * 64, 4 * 30,
    ),
    "Euclidean distances pair by pair": (
        layer("cdist", [op("x1", 2, 3, 4), op("x2", 2, 5, 4)], op("output", 2, 3, 5), compute_mode=2), 3 * 30 * 4, 4 * 64, 4 * 30,
    ),
    "distances among rows": (layer("pdist", [op("self", 4, 5)], op("output", 6)), 3 * 6 * 5, 80, 24),
    "cosine similarity of all pairs": (
        layer("cosine_similarity", [op("x1", 3, 1, 6), op("x2", 1, 5, 6)], op("output", 3, 5)), 6 * 3 * 5 * 6, 192, 60,
    ),
    "LU of a wide matrix": (layer("linalg_lu_factor_ex", [op("A", 4, 400)], op("LU", 4, 400)), 16 * 1196 // 3, 6400, 6400),
    "cosine similarity": (layer("cosine_similarity", [op("x1", 3, 6), op("x2", 3, 6)], op("output", 3)), 6 * 18, 144, 12),
    "Cholesky": (layer("linalg_cholesky_ex", [op("self", 2, 6, 6)], op("L", 2, 6, 6)), 2 * 216 // 3, 288, 288),
    "determinant": (layer("_linalg_det", [op("A", 6, 6)], op("result")), 2 * 216 // 3, 144, 4),
    "inverse": (layer("linalg_inv_ex", [op("A", 2, 6, 6)], op("inverse", 2, 6, 6)), 2 * 2 * 216, 288, 288),
    "solve": (layer("_linalg_solve_ex", [op("A", 6, 6), op("B", 6, 2)], op("result", 6, 2)), 144 + 2 * 36 * 2, 192, 48),
    "solve a factored system": (
        layer("cholesky_solve", [op("self", 6, 2), op("input2", 6, 6)], op("output", 6, 2)), 2 * 36 * 2, 192, 48,
    ),
    "QR of a wide matrix": (
        layer("linalg_qr", [op("A", 3, 9)], op("Q", 3, 3), op("R", 3, 9)), 4 * 9 * 9 - 4 * 27 // 3, 108, 4 * 36,
    ),
    "R alone": (layer("linalg_qr", [op("A", 9, 3)], op("Q", 0), op("R", 3, 3), mode="r"), 2 * 9 * 9 - 2 * 27 // 3, 108, 36),
    "add": (layer("add", [op("self", 3, 6), op("other", 6)], op("output", 3, 6)), 18, 96, 72),
    "relu in half": (layer("relu", [op("self", 10, dtype="float16")], op("output", 10, dtype="float16")), 10, 20, 20),
    "cat": (layer("cat", [op("tensors", 2, 3), op("tensors", 2, 5)], op("output", 2, 8)), 0, 64, 64),
    "copy": (layer("copy", [op("self", 2, 3), op("src", 3)], op("output", 2, 3)), 0, 12, 24),
    "index": (layer("index", [op("self", 100, 4), op("indices", 5, dtype="int64")], op("output", 5, 4)), 0, 80 + 40, 80),
    "index_put": (
        layer("index_put", [op("self", 100, 4), op("indices", 5, dtype="int64"), op("values", 5, 4)], op("output", 100, 4)),
        0, 40 + 80, 80,
    ),
    "index_put into a copy": (
        layer(
            "index_put", [op("self", 100, 4), op("indices", 5, dtype="int64"), op("values", 5, 4)], op("output", 100, 4),
            copied=True,
        ),
        0, 40 + 80 + 1600, 80 + 1600,
    ),
    "index_copy of a token into a cache": (
        layer(
            "index_copy", [op("self", 2, 9, 4), op("index", 1, dtype="int64"), op("source", 2, 1, 4)], op("output", 2, 9, 4),
            dim=1,
        ),
        0, 8 + 32, 32,
    ),
    "index_add reads what it adds to": (
        layer("index_add", [op("self", 9, 4), op("index", 3, dtype="int64"), op("source", 3, 4)], op("output", 9, 4), dim=0),
        12, 24 + 48 + 48, 48,
    ),
    "index_add of more rows than there are": (
        layer("index_add", [op("self", 2, 4), op("index", 50, dtype="int64"), op("source", 50, 4)], op("output", 2, 4), dim=0),
        200, 400 + 800 + 32, 32,
    ),
    "scatter_reduce": (
        layer(
            "scatter_reduce", [op("self", 9, 4), op("index", 3, 2, dtype="int64"), op("src", 3, 2)], op("output", 9, 4), dim=0,
            reduce="amax",
        ),
        6, 48 + 24 + 24, 24,
    ),
    "index_fill": (layer("index_fill", [op("self", 9, 4), op("index", 3, dtype="int64")], op("output", 9, 4), dim=1), 0, 24, 108),
    "scatter of one number": (
        layer("scatter", [op("self", 9, 4), op("index", 3, 2, dtype="int64")], op("output", 9, 4), dim=0), 0, 48, 24,
    ),
    "scatter_add": (
        layer("scatter_add", [op("self", 9, 4), op("index", 3, 2, dtype="int64"), op("src", 3, 2)], op("output", 9, 4), dim=0),
        6, 48 + 24 + 24, 24,
    ),
    "put": (
        layer("put", [op("self", 9, 4), op("index", 3, dtype="int64"), op("source", 3)], op("output", 9, 4)), 0, 24 + 12, 12,
    ),
    "embedding_renorm": (
        layer("embedding_renorm", [op("self", 1000, 16), op("indices", 5, dtype="int64")], op("output", 1000, 16)),
        3 * 5 * 16, 5 * 64 + 40, 5 * 64,
    ),
    "grouped matrices by the columns of one": (
        layer("_grouped_mm", [op("self", 4, 6, 3), op("mat2", 3, 8), op("offs", 4, dtype="int32")], op("output", 6, 8)),
        2 * 6 * 3 * 8, 4 * 72 + 4 * 24 + 16, 4 * 48,
    ),
    "index_put of one value": (
        layer("index_put", [op("self", 9, 4), op("indices", 5, dtype="int64"), op("values")], op("output", 9, 4)), 0, 40 + 4, 80,
    ),
    "index_put along the second axis, which adds": (
        layer(
            "index_put", [op("self", 9, 4), op("indices", 3, dtype="int64"), op("values", 3)], op("output", 9, 4),
            indexed_axes=(1,), accumulate=True,
        ),
        27, 24 + 12 + 4 * 27, 4 * 27,
    ),
    "index_put by a mask that keeps nobody knows how many, which adds": (
        layer(
            "index_put", [op("self", 9, 4), op("indices", 9, dtype="bool"), op("values", 4)], op("output", 9, 4), accumulate=True
        ),
        36, 9 + 16 + 144, 144,
    ),
    "points of a sampling grid": (
        layer("affine_grid_generator", [op("theta", 2, 2, 3)], op("output", 2, 5, 7, 2)), 2 * 3 * 140, 48, 560,
    ),
    "frames added where they overlap": (
        layer("unfold_backward", [op("grad_in", 3, 8)], op("output", 12)), 24, 96, 48,
    ),
    "index_put along two axes": (
        layer(
            "index_put",
            [op("self", 9, 4, 7), op("indices", 3, 1, dtype="int64"), op("indices", 2, dtype="int64"), op("values", 7)],
            op("output", 9, 4, 7),
        ),
        0, 24 + 16 + 28, 4 * 3 * 2 * 7,
    ),
    "index_put of one value by a mask": (
        layer("index_put", [op("self", 9, 4), op("indices", 9, dtype="bool"), op("values")], op("output", 9, 4)),
        0, 9 + 4 + 144, 144,
    ),
    "index_put by a mask, of as many values as it chooses": (
        layer("index_put", [op("self", 9, 4), op("indices", 9, dtype="bool"), op("values", 2, 4)], op("output", 9, 4)),
        0, 9 + 32, 32,
    ),
    "index_put of one row, spread, by a mask": (
        layer("index_put", [op("self", 9, 4), op("indices", 9, dtype="bool"), op("values", 4)], op("output", 9, 4)),
        0, 9 + 16 + 144, 144,
    ),
    "index_put of a column by a mask of the second axis": (
        layer(
            "index_put", [op("self", 9, 4), op("indices", 4, dtype="bool"), op("values", 9, 1)], op("output", 9, 4),
            indexed_axes=(1,),
        ),
        0, 4 + 36 + 144, 144,
    ),
    "index_put of as many columns as a mask of the second axis chooses, spread": (
        layer(
            "index_put", [op("self", 9, 4), op("indices", 4, dtype="bool"), op("values", 1, 2)], op("output", 9, 4),
            indexed_axes=(1,),
        ),
        0, 4 + 8, 4 * 9 * 2,
    ),
    "embedding bags": (
        layer(
            "embedding_bag", [op("weight", 1000, 16), op("indices", 14, dtype="int64"), op("offsets", 2, dtype="int64")],
            op("output", 2, 16),
        ),
        14 * 16, 14 * 64 + 14 * 8 + 2 * 8, 2 * 64,
    ),
    "weighed embedding bags": (
        layer(
            "_embedding_bag",
            [
                op("weight", 1000, 16), op("indices", 14, dtype="int64"), op("offsets", 2, dtype="int64"),
                op("per_sample_weights", 14),
            ],
            op("output", 2, 16),
        ),
        2 * 14 * 16, 14 * 64 + 14 * 8 + 2 * 8 + 14 * 4, 2 * 64,
    ),
    "embedding": (
        layer("embedding", [op("weight", 1000, 16), op("indices", 2, 7, dtype="int64")], op("output", 2, 7, 16)),
        0, 14 * 64 + 14 * 8, 14 * 64,
    ),
    "arange": (layer("arange", [], op("output", 9, dtype="int64")), 0, 0, 72),
    "stochastic depth that drops": (layer("stochastic_depth", [op("input", 6)], op("output", 6), active=True), 6, 24, 24),
    "stochastic depth that does not": (layer("stochastic_depth", [op("input", 6)], op("output", 6), active=False), 0, 0, 0),
    "unknown": (layer("mystery", [op("x", 4)], op("output", 4), op("output", 2)), 6, 16, 24),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_flop_and_bytes_by_hand(name):
    x, flop, read_bytes, write_bytes = COUNTS[name]
    assert (x.flop, x.read_bytes, x.write_bytes) == (flop, read_bytes, write_bytes)


def test_every_group_is_counted_above():
    assert {x.group for x, *_ in COUNTS.values()} == {kind.group for kind in KINDS.values()} | {"other"}


def test_an_unknown_kind_says_so():
    assert not COUNTS["unknown"][0].known
    assert COUNTS["add"][0].known


def test_expanded_dimensions_count_once():
    x = op("self", 4, 5, 6, strides=(0, 6, 1))
    assert (x.elements, x.size_bytes) == (120, 120)
    assert op("self", 4, 5, strides=(0, 0)).size_bytes == 4
    assert op("self", 0, 5, strides=(0, 1)).size_bytes == op("self", 0, 5, strides=(0, 1)).span_elements == 0
    assert (op("self", 4, 5).span_elements, op("self", 4, 5, strides=(8, 1)).span_elements) == (20, 29)


def test_channels_last_is_told_from_other_strides():
    assert op("x", 2, 8, 4, 4, strides=(128, 1, 32, 8)).channels_last
    assert not op("x", 2, 8, 4, 4, strides=(128, 16, 1, 4)).channels_last
    assert not op("x", 2, 8, strides=(1, 2)).channels_last
    assert not op("x", 2, 8, 4, 4).channels_last


def test_the_dtype_is_that_of_the_first_floating_input():
    assert COUNTS["embedding"][0].dtype == "float32"
    assert (
        layer("add", [op("self", 2, dtype="int64"), op("other", 2, dtype="float16")], op("output", 2, dtype="float16")).dtype
        == "float16"
    )
    assert COUNTS["arange"][0].dtype == "int64"


def test_intensity_is_zero_where_nothing_moves():
    assert COUNTS["stochastic depth that does not"][0].intensity_flop_per_byte == 0.0
    assert COUNTS["add"][0].intensity_flop_per_byte == 18 / 168


@pytest.mark.parametrize(
    ("name", "none", "conv", "every"),
    [
        ("conv2d", False, True, True),
        ("transposed conv", False, True, True),
        ("linear", False, False, True),
        ("attention", False, False, True),
        ("lstm", False, True, True),
        ("add", False, False, False),
        ("fft", False, False, False),
    ],
)
def test_tf32_reaches_only_what_its_mode_says(name, none, conv, every):
    x = COUNTS[name][0]
    assert [x.with_tf32(mode).tf32 for mode in ("none", "conv", "all")] == [none, conv, every]
    assert x.with_tf32("all").with_tf32("none") == x


def test_pytorch_lets_by_default_what_the_mode_conv_lets():
    told = "import torch; b = torch.backends; print([x.fp32_precision for x in (b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul)])"
    defaults = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)
    if "AttributeError" in defaults.stderr:
        pytest.skip("this PyTorch has one switch for all that cuDNN runs")
    lets = [COUNTS[name][0].with_tf32("conv").tf32 for name in ("conv2d", "lstm", "linear")]
    assert [x == "tf32" for x in ast.literal_eval(defaults.stdout)] == lets


def test_tf32_is_for_float32_only():
    half = layer("conv2d", [replace(x, dtype="float16") for x in CONV.inputs], replace(CONV.outputs[0], dtype="float16"))
    assert not half.with_tf32("all").tf32
    with pytest.raises(InputError, match="none, conv, all"):
        CONV.with_tf32("yes")


@pytest.mark.parametrize("name", COUNTS)
def test_json_round_trip(name):
    x = COUNTS[name][0].with_tf32("all")
    again = Layer.from_json(json.loads(json.dumps(x.to_json())))
    assert again == x
    assert hash(again) == hash(x)
    assert again.digest() == x.digest()


sizes = st.lists(st.integers(0, 9), max_size=4).map(tuple)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
arguments = st.dictionaries(st.text(min_size=1, max_size=5), scalars | st.lists(scalars, max_size=3).map(tuple), max_size=3)


@st.composite
def operands(draw):
    shape = draw(sizes)
    strides = draw(st.none() | st.tuples(*[st.integers(0, 99)] * len(shape)))
    return Operand(draw(st.text(max_size=5)), shape, draw(st.sampled_from(list(DTYPE_BYTES))), strides)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(operands(), max_size=3), st.lists(operands(), max_size=2), arguments, st.booleans())
def test_any_layer_survives_json(inputs, outputs, args, tf32):
    x = Layer("mystery", tuple(inputs), tuple(outputs), tuple(sorted(args.items())), tf32)
    assert Layer.from_json(json.loads(json.dumps(x.to_json()))) == x


def test_layers_are_frozen_and_different_ones_differ():
    with pytest.raises(FrozenInstanceError):
        CONV.kind = "relu"  # type: ignore[misc]
    others = [
        replace(CONV, kind="conv1d"), replace(CONV, tf32=True), replace(CONV, arguments=()), replace(CONV, outputs=()),
        replace(CONV, inputs=(replace(CONV.inputs[0], strides=(192, 1, 24, 3)), *CONV.inputs[1:])),
        replace(CONV, inputs=(replace(CONV.inputs[0], dtype="float16"), *CONV.inputs[1:])),
    ]  # fmt: skip
    assert len({CONV, *others}) == len({x.digest() for x in (CONV, *others)}) == 7


ELSEWHERE = """
import json, pickle, sys
sys.path.insert(0, "tests")
from test_layer import CONV
x = pickle.load(open(sys.argv[1], "rb"))
print(json.dumps([x.digest(), x == CONV, hash(x) == hash(CONV), x in {CONV: 1}, hash("a")]))
"""


def test_digest_equality_and_hash_hold_in_other_processes(tmp_path):
    path = tmp_path / "layer.pickle"
    hash(CONV)
    path.write_bytes(pickle.dumps(CONV))
    answers = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, str(path)], capture_output=True, text=True, check=True, cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )  # fmt: skip
        answers.append(json.loads(done.stdout))
    assert [a[:4] for a in answers] == [[CONV.digest(), True, True, True]] * 2
    assert answers[0][4] != answers[1][4], "the processes salt text alike, so this shows nothing"


def changed(**changes: Any) -> dict[str, Any]:
    return CONV.to_json() | changes


def changed_input(**changes: Any) -> dict[str, Any]:
    record = copy.deepcopy(CONV.to_json())
    record["inputs"][0] |= changes
    return record


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in record.items() if k != key}


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


MALFORMED: dict[str, Any] = {
    **{f"no {key}": without(CONV.to_json(), key) for key in ("kind", "inputs", "outputs")},
    **{f"operand without {k}": changed(inputs=[without(CONV.to_json()["inputs"][0], k)]) for k in ("name", "shape", "dtype")},
    "negative size": changed_input(shape=[2, -3, 8, 8]),
    "unknown dtype": changed_input(dtype="float12"),
    "dtype that is no text": changed_input(dtype=["float32"]),
    "bool size": changed_input(shape=[True, 3, 8, 8]),
    "float size": changed_input(shape=[2.0, 3, 8, 8]),
    "text size": changed_input(shape="2388"),
    "null shape": changed_input(shape=None),
    "bool stride": changed_input(strides=[True, 1, 1, 1]),
    "too few strides": changed_input(strides=[1]),
    "kind that is no text": changed(kind=7),
    "arguments as a list": changed(arguments=[["stride", 1]]),
    "argument that is a dict": changed(arguments={"stride": {"a": 1}}),
    "deep argument": changed(arguments={"stride": nested(20_000)}),
    "operand that is a number": changed(inputs=[1]),
    "operand that is a list": changed(inputs=[[["input"]]]),
    "inputs as a dict": changed(inputs={"input": 1}),
    "inputs as a number": changed(inputs=3),
    "tf32 as text": changed(tf32="false"),
    "convolution without a weight": changed(inputs=[]),
    "convolution without an output": changed(outputs=[]),
    "attention without a value": changed(kind="scaled_dot_product_attention", inputs=CONV.to_json()["inputs"][:2]),
    "null": None,
    "number": 3,
    "text": "conv2d",
    "list": [CONV.to_json()],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_records_are_refused(name):
    with pytest.raises(InputError) as caught:
        Layer.from_json(MALFORMED[name])
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_the_records_above_are_malformed_by_one_change_each():
    assert Layer.from_json(changed()) == Layer.from_json(changed_input()) == CONV
