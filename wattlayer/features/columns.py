"""Dimensions of many layers as columns, and what follows from them on one device: tiles, waves and the roofline's times."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hardware import Hardware
from ..layer import Layer
from .dimensions import DIMENSIONS, GROUP_CODES, dimensions

Array = NDArray[np.float64]

_INDEX = {name: i for i, name in enumerate(DIMENSIONS)}


def forget_layers() -> None:
    """Let go of the features of all layers met so far, some 2 kB each and 262,144 at most."""
    _packed.cache_clear()


@lru_cache(maxsize=1 << 18)
def _packed(layer: Layer) -> tuple[bytes, tuple[str, str, bool]]:
    """The same as the bytes of a row (a table of them is one copy), and the kind, dtype and use of TF32."""
    return struct.pack(f"{len(DIMENSIONS)}d", *dimensions(layer)), (layer.kind, layer.dtype, layer.tf32)


_AT_INT8_RATE = ("_int_mm", "_scaled_mm")
"""Products of bytes, whose output's dtype says nothing of their rate; float8 runs at that of int8 (H100 white paper, table 2)."""


IN_TILES = frozenset(("conv", "matmul", "attention", "recurrent"))
"""Groups that compute in tiles, at the peak rate of their dtype."""


def rate_of(layer: Layer) -> str:
    """Return the dtype at whose peak rate a layer computes, if it is of a group that does (`IN_TILES`)."""
    return "int8" if layer.kind in _AT_INT8_RATE else layer.dtype


class Columns:
    """Columns [n_layers] of dimensions and of what follows from them on one device."""

    def __init__(self, layers: Sequence[Layer], hardware: Hardware) -> None:
        packed = [_packed(x) for x in layers]
        rows = b"".join([row for row, _ in packed])
        self._table = np.ascontiguousarray(np.frombuffer(rows).reshape(len(layers), len(DIMENSIONS)).T)
        self.hardware = hardware
        alike: dict[tuple[str, str, bool], int] = {}
        codes = [alike.setdefault(key, len(alike)) for _, key in packed]
        self._alike = [layers[codes.index(code)] for code in alike.values()]
        self.alike: NDArray[np.intp] = np.array(codes, dtype=np.intp)
        """Codes [n_layers] that layers of one kind, dtype and use of TF32 share."""
        peak = self.of_kind(lambda x: hardware.peak(rate_of(x), x.tf32)).astype(np.float64)
        cores = self.of_kind(lambda x: hardware.on_tensor_cores(rate_of(x), x.tf32)).astype(bool)
        self.tensor_core: Array = (cores & self._fit_for_tensor_cores).astype(np.float64)
        left_over = cores & (self.tensor_core == 0)  # what tensor cores cannot load is left to the vector units
        self.peak_flop_per_s: Array = np.where(left_over, hardware.peak("float32"), peak)
        self.computed = Columns([x.as_computed() for x in layers], hardware) if self["held"].any() else self
        """The same layers with weights in the dtype that they compute in, as they are measured."""

    def of_kind(self, value: Callable[[Layer], Any]) -> NDArray[Any]:
        """Return `value` [n_layers], asked once for layers of one kind, dtype and use of TF32, on which alone it may depend."""
        values = [value(x) for x in self._alike]
        return np.array(values, dtype=object if values and isinstance(values[0], str) else None)[self.alike]

    def __getitem__(self, name: str) -> Array:
        column: Array = self._table[_INDEX[name]]
        return column

    @property
    def own_bytes(self) -> Array:
        """Bytes read and written [n_layers], each once; on CPUs without what of an image no window of a convolution touches
        (GPUs fetch it along, in whole sectors)."""
        skipped_bytes = self["skipped_bytes"] * (self.hardware.kind == "cpu")
        return self["read_bytes"] + self["write_bytes"] - skipped_bytes

    @property
    def bytes_moved(self) -> Array:
        """`own_bytes` [n_layers], those of operands that are copied first twice more, and on GPUs what norms read again."""
        return self.own_bytes + 2.0 * self["copied_bytes"] + self.reread_bytes

    @property
    def reread_bytes(self) -> Array:
        """What a second kernel of a norm reads again [n_layers]; CPUs take a row at a time, which stays in their caches."""
        return self["reread_bytes"] * (self.hardware.kind != "cpu")

    @property
    def _fit_for_tensor_cores(self) -> NDArray[np.bool_]:
        """Depthwise convolutions and products by a vector are no products of matrices, and other convolutions load 16 bytes of
        channels at a time, four of TF32 and eight of half precision: an image's three or any other remainder stay on vector units
        (on an A30 those of TF32 take as long as in float32)."""
        at_once = np.where(self["element_bytes"] < 4, 8.0, np.where(self["tf32"] > 0, 4.0, 1.0))
        return ~(self.is_conv & (self["in_channels"] % at_once != 0) | self.depthwise | self.by_vector)

    @property
    def separate_bias(self) -> Array:
        """1 where a bias is a kernel of its own, which reads and writes the output once more [n_layers]: that of a convolution on
        GPUs, that of a product where ATen adds it afterwards."""
        return self["bias"] * self.is_conv * (self.hardware.kind != "cpu") + self["added"]

    @cached_property
    def is_conv(self) -> NDArray[np.bool_]:
        return np.asarray(self["group_code"] == GROUP_CODES["conv"])

    @cached_property
    def matrix_like(self) -> NDArray[np.bool_]:
        in_tiles = [GROUP_CODES[group] for group in IN_TILES]
        return np.asarray(np.isin(self["group_code"], in_tiles) & ~self.by_vector)

    @cached_property
    def by_vector(self) -> NDArray[np.bool_]:
        """Products with a single row or column: BLAS multiplies a matrix by a vector on vector units, without tiles."""
        return np.asarray((self["group_code"] == GROUP_CODES["matmul"]) & (np.minimum(self["m"], self["n"]) <= 1))

    @cached_property
    def depthwise(self) -> NDArray[np.bool_]:
        return self.is_conv & (self["batches"] > 1) & (self["batches"] == self["in_channels"])

    @cached_property
    def odd_planes(self) -> NDArray[np.bool_]:
        """Whether a channel of the output is no multiple of 16 bytes, so that most start where vector loads cannot."""
        return np.asarray(self["out_positions"] * self["element_bytes"] % 16 != 0)

    @cached_property
    def as_it_lies(self) -> NDArray[np.bool_]:
        """Whether tensor cores of a GPU multiply each image as it lies, channels first: windows of one without stride and padding
        are products of weights [out_channels, in_channels] and images [in_channels, positions]. In numbers of two bytes channels
        must start aligned; in TF32 any will do (rows of the A30 and the H200 take no time for turning them)."""
        aligned = (self["element_bytes"] == 4) | ~self.odd_planes
        plain = (self["window"] == 1) & (self["stride"] == 1) & (self["in_positions"] == self["out_positions"])
        on_gpu = self.hardware.kind != "cpu"
        return np.asarray(self.is_conv & (self.tensor_core > 0) & plain & aligned & ~self.channels_inmost & on_gpu)

    @cached_property
    def channels_inmost(self) -> NDArray[np.bool_]:
        """Whether channels of an image lie side by side: in channels-last layout, and where there is but one position."""
        return np.asarray((self["channels_last"] > 0) | (self["in_positions"] == 1))

    def compute_s(self) -> Array:
        """FLOP over peak rate; only matrix-like kinds reach the tensor cores."""
        vector = self.hardware.peak("float32")
        return self["flop"] / np.where(self.matrix_like, self.peak_flop_per_s, vector)

    @property
    def l2_share(self) -> Array:
        """Working set over the capacity of the L2 cache."""
        return np.maximum(self.bytes_moved - self.reread_bytes, 1.0) / self.hardware.l2_bytes

    @property
    def cached(self) -> NDArray[np.bool_]:
        """Whether all that a layer reads and writes fits into half of the L2 cache: repeated alone, it finds its data there."""
        return self.l2_share < 0.5

    def memory_s(self) -> Array:
        """Bytes over DRAM bandwidth."""
        return self.bytes_moved / self.hardware.dram_bytes_per_s

    def roofline_s(self) -> Array:
        """Longest of compute and memory time plus the launch floor (Williams et al., CACM 2009, with a floor)."""
        return np.maximum(self.compute_s(), self.memory_s()) + self.hardware.launch_s

    @cached_property
    def product(self) -> tuple[Array, Array, Array]:
        """m, n and k as kernels cut them: those of attention keep a tile of queries and walk over all keys, for both products
        (Dao et al., FlashAttention, NeurIPS 2022), but for tiles that a causal mask hides (FlashAttention-2, section 3.1)."""
        attention, m, n = self["group_code"] == GROUP_CODES["attention"], self["m"], self["n"]
        if not attention.any():
            return m, n, self["k"]
        shorter = np.minimum(m, n)
        seen = np.minimum(n, shorter * (1.0 - 0.5 * shorter / np.maximum(m, 1.0)) + _MASKED_HALF)
        keys = np.where(self["causal"] > 0, seen, n)
        return m, np.where(attention, self["k"], n), np.where(attention, 2.0 * keys, self["k"])

    @property
    def misaligned(self) -> NDArray[np.bool_]:
        """Whether rows of a product or its operands are no multiple of 16 bytes, which kernels of tensor cores move at once."""
        row_bytes = np.column_stack([self["n"], self["k"]]) * self["element_bytes"][:, None]
        return (self["group_code"] == GROUP_CODES["matmul"]) & (self.tensor_core > 0) & (row_bytes % 16 != 0).any(axis=1)

    @cached_property
    def smallest_tile(self) -> tuple[Array, Array]:
        """Edges [n_layers] along m and n of the smallest output tile: 32 x 32, or, of products by BLAS, one as thin as 16
        where it pads less: that of few rows or columns (for which NVIDIA's has gemmSN), and of what whole 32s do not fill."""
        areas = [self.tiles(m, n) * m * n for m, n in SMALLEST_TILES]
        chosen = np.where(self.by_blas, np.argmin(areas, axis=0), 0)
        edge_m, edge_n = np.array(SMALLEST_TILES).T[:, chosen]
        return edge_m, edge_n

    @property
    def by_blas(self) -> NDArray[np.bool_]:
        """Which layers [n_layers] are products that a BLAS library computes."""
        blas: NDArray[np.bool_] = self["group_code"] == GROUP_CODES["matmul"]
        return blas

    def tiles(self, edge_m: Array | float, edge_n: Array | float) -> Array:
        """Output tiles of `edge_m` x `edge_n` that the products fall into, of each image apart where these are multiplied as they
        lie."""
        m, n, _ = self.product
        images = np.where(self.as_it_lies, np.maximum(m / np.maximum(self["out_positions"], 1.0), 1.0), 1.0)
        result: Array = self["batches"] * images * np.ceil(m / images / edge_m) * np.ceil(n / edge_n)
        return result

    def tiled_flop(self, edge_m: Array | float, edge_n: Array | float) -> Array:
        """FLOP of the products in whole output tiles of `edge_m` x `edge_n`."""
        return 2.0 * self.tiles(edge_m, edge_n) * edge_m * edge_n * self.product[2]

    def waves(self, edge_m: Array | float, edge_n: Array | float) -> Array:
        """Tiles per multiprocessor."""
        return self.tiles(edge_m, edge_n) / self.hardware.units


SMALLEST_TILE = 32.0
"""Edge of the smallest square tile."""
SMALLEST_TILES = ((SMALLEST_TILE, SMALLEST_TILE), (128.0, 16.0), (16.0, 128.0))
_MASKED_HALF = 32.0
"""Half of a tile of queries, which see keys of one another that the mask hides: keys that a query is multiplied by in vain."""
