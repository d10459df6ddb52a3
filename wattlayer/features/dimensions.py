"""What one layer's sizes are, under names that all kinds share.

Every matrix-like layer is seen as `batches` products [m, k] x [k, n] (a convolution as its implicit GEMM), every other
layer as `m` rows reduced or mapped over `n` elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import prod
from operator import attrgetter
from typing import Any

import numpy as np

from ..errors import InputError
from ..kinds import KINDS, LINEAR_DYNAMIC, MOMENTS_APART, matrices_met, pooled_axes, window_elements
from ..layer import DTYPE_BYTES, SCALE, Layer, Operand

KIND_CODES = {name: float(code) for code, name in enumerate((
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "torchvision::deform_conv2d",
    "linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "_grouped_mm", "scaled_dot_product_attention", "lstm", "gru",
    "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "softmax", "log_softmax",
    "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean", "sum", "embedding", "stochastic_depth",
    "relu", "hardtanh", "hardsigmoid", "hardswish", "sigmoid", "tanh", "silu", "gelu", "mul", "add", "sub", "div", "where",
    "cat", "stack", "clone", "_to_copy", "copy", "index",
))}  # fmt: skip
"""Codes of the commonest kinds, alike ones side by side; append only. Others share -1 and differ by their group."""

GROUP_CODES = {name: float(code) for code, name in enumerate((
    "other", "conv", "matmul", "attention", "recurrent", "norm", "softmax", "pooling", "reduction", "sort", "resample",
    "fft", "elementwise", "embedding", "copy", "creation",
))}  # fmt: skip


@dataclass(frozen=True)
class Dimensions:
    """One layer's sizes under the names that all kinds share; counts, not logarithms."""

    kind_code: float
    group_code: float
    flop: float
    read_bytes: float
    write_bytes: float
    batches: float
    m: float
    n: float
    k: float
    window: float = 1.0
    """Elements of a kernel or pooling window."""
    square: float = 1.0
    """Whether the window of a convolution is as high as it is wide."""
    stride: float = 1.0
    dilation: float = 1.0
    in_channels: float = 1.0
    out_channels: float = 1.0
    in_positions: float = 1.0
    out_positions: float = 1.0
    samples: float = 1.0
    """Size of dimension 0 of the input."""
    weight_bytes: float = 0.0
    causal: float = 0.0
    heads_per_kv: float = 1.0
    transposed: float = 0.0
    train: float = 0.0
    operands: float = 1.0
    element_bytes: float = 4.0
    channels_last: float = 0.0
    strided: float = 0.0
    tf32: float = 0.0
    bias: float = 0.0
    copies: float = 0.0
    """Operands that must be copied before the kernel can take them."""
    copied_bytes: float = 0.0
    across_bytes: float = 0.0
    """What sectors of memory bring along with the elements that are asked of them."""
    skipped_bytes: float = 0.0
    """What of an image no window of a convolution touches, where strides leave gaps between or within windows."""
    held: float = 0.0
    """Whether weights are held in fewer bytes than they are multiplied in."""
    added: float = 0.0
    """Whether a product's bias is added by a kernel of its own."""
    further: float = 0.0
    """Kernels beside the first of a norm that GPUs compute in parts."""
    reread_bytes: float = 0.0
    """What the last of these reads once more: rows whose moments the first one took."""


DIMENSIONS = tuple(f.name for f in fields(Dimensions))

_IN_ORDER = attrgetter(*DIMENSIONS)


def dimensions(layer: Layer) -> tuple[float, ...]:
    """Return the values of `Dimensions` for one layer, in `DIMENSIONS` order."""
    inputs = layer.inputs
    try:
        sizes, flop = _SIZES.get(layer.group, _mapped)(layer), float(layer.flop)
    except (LookupError, ArithmeticError, TypeError, ValueError):
        shapes = ", ".join(str(x.shape) for x in inputs)
        given = ", ".join(f"{name}={value!r}" for name, value in layer.arguments) or "none"
        raise InputError(
            f"operands {shapes} with arguments {given} do not fit the kind {layer.kind!r}: correct the shapes of the layer"
        ) from None
    of_all = {
        "kind_code": KIND_CODES.get(layer.kind, -1.0),
        "group_code": GROUP_CODES[layer.group],
        "flop": flop,
        "read_bytes": float(layer.read_bytes),
        "write_bytes": float(layer.write_bytes),
        "samples": float(inputs[0].shape[0]) if inputs and inputs[0].shape else 1.0,
        "train": float(bool(layer.argument("training", False) or layer.argument("active", False))),
        "operands": float(sum(x.name != SCALE for x in inputs)),
        "held": float(any(x.name == SCALE for x in inputs)),
        "element_bytes": float(DTYPE_BYTES[layer.dtype]),
        "channels_last": float(bool(inputs) and inputs[0].channels_last),
        "strided": float(_lies_apart(layer)),
        "across_bytes": float(_across_bytes(layer)),
        "tf32": float(layer.tf32),
        "bias": float(layer.operand("bias") is not None),
    }
    values: tuple[float, ...] = _IN_ORDER(Dimensions(**(of_all | sizes)))
    return values


_IN_ROWS = frozenset({"layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"})
"""Norms of rows, which one kernel of ATen computes where it can (`_further`)."""
_COPIED_FIRST = _IN_ROWS | {"softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax"}
"""Kinds whose kernels take rows that lie together: ATen copies others first (`expect_contiguous`)."""

_SECTOR_BYTES = 32
"""The least that NVIDIA's GPUs fetch from memory or L2 (CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory")."""


def _lies_apart(layer: Layer) -> bool:
    """Whether a kernel must find for each element where its operands lie: element-wise ones (ATen's TensorIterator) where these
    are expanded, leave gaps or differ in layout, others where any operand is neither contiguous nor channels-last. Rows that are
    copied first do not."""
    if layer.kind in _COPIED_FIRST:
        return False
    if layer.group != "elementwise":
        return any(x.strides is not None and not x.channels_last for x in layer.inputs)
    elements = max((x.elements for x in layer.outputs), default=1)
    whole = all(x.dense and x.elements == elements for x in layer.inputs)
    return not whole or len({tuple(i - len(x.shape) for i in x.layout) for x in layer.inputs}) > 1


def _across_bytes(layer: Layer) -> int:
    """Bytes that come along with elements read across their layout: where neighbours in a row lie apart in memory, each fetches
    as many as lie between them, a sector at most. Of element-wise kinds, copies and rows that are copied first; 0 for others."""
    copied = layer.kind in _COPIED_FIRST
    if not (copied or layer.group in ("elementwise", "copy")):
        return 0
    operands = layer.inputs[:1] if copied else layer.inputs
    elements = max((x.elements for x in layer.outputs), default=1)
    # kernels walk along the first operand that is as large as their output, copies that join or pad along a part; `contiguous`,
    # which is recorded as a clone, along the last dimension
    whole = [x for x in operands if x.elements == elements or (layer.group == "copy" and x.elements < elements)]
    walked = next((x.layout[-1] - len(x.shape) for x in whole if x.dense and x.layout), -1)
    if copied or layer.kind == "clone":
        walked = next((-i for x in operands[:1] for i, n in enumerate(reversed(x.shape), 1) if n > 1), -1)
    across = 0
    for x in operands:
        expanded = x.size_bytes != x.bytes_of(x.elements)  # what is read again comes from a cache
        if len(x.shape) >= -walked and x.shape[walked] > 1 and not expanded:
            size = x.bytes_of(1)
            read = min(x.elements, elements) if layer.group == "copy" else x.elements  # of a table what is taken
            across += read * (min(max(_SECTOR_BYTES, size), max(x.steps[walked], 1) * size) - size)
    return across


def _conv(layer: Layer) -> dict[str, float]:
    """Implicit GEMM: [batch · positions, channels · window] x [channels · window, channels]; transposed, with n for k."""
    x, weight, out = layer.inputs[0], layer.inputs[1], layer.outputs[0]
    spatial = len(weight.shape) - 2
    groups = layer.argument("groups", 1)
    transposed = layer.kind.startswith("conv_transpose")
    positions = x if transposed else out
    copied = x.strides is not None and not x.channels_last  # ATen's `contiguous`
    return {
        "samples": prod(x.shape[:-spatial - 1]),
        "batches": groups,
        "m": prod(positions.shape[:-spatial - 1]) * prod(positions.shape[-spatial:]),
        "n": weight.elements / weight.shape[0] if transposed else weight.shape[0] / groups,
        "k": weight.shape[0] / groups if transposed else weight.elements / weight.shape[0],
        "window": prod(weight.shape[2:]),
        "square": len(set(weight.shape[2:])) == 1,
        "stride": _mean(layer.argument("stride", (1,))),
        "dilation": _mean(layer.argument("dilation", (1,))),
        "in_channels": x.shape[-spatial - 1],
        "out_channels": out.shape[-spatial - 1],
        "in_positions": prod(x.shape[-spatial:]),
        "out_positions": prod(out.shape[-spatial:]),
        "weight_bytes": weight.size_bytes,
        "transposed": transposed,
        "copies": copied,
        "copied_bytes": x.bytes_of(x.elements) * copied,
        "skipped_bytes": 0.0 if transposed else x.size_bytes * (1.0 - _touched_frac(layer, spatial)),
    }  # fmt: skip


def _touched_frac(layer: Layer, spatial: int) -> float:
    """Return the share of an image that windows of a convolution touch: all, as far as they leave no gaps."""
    of_axes = (("stride", 1), ("dilation", 1), ("padding", 0))
    strides, dilations, paddings = (_per_axis(layer.argument(name), default, spatial) for name, default in of_axes)
    sizes = (x.shape[-spatial:] for x in (layer.inputs[0], layer.inputs[1], layer.outputs[0]))
    share = 1.0
    for length, window, outputs, stride, dilation, before in zip(*sizes, strides, dilations, paddings):
        if stride > 1 and length and window <= _MOST_TAPS and (stride > window or dilation > 1):
            share *= _touched(length, outputs, stride, [j * dilation - before for j in range(window)]) / length
    return share


def _touched(length: int, outputs: int, stride: int, taps: Sequence[int]) -> int:
    """Return how many of `length` places are touched by `taps` that move on by `stride`, each `outputs` times.

    Taps that meet the same places differ by whole strides: of each such class runs of equal length are joined.
    """
    count, ends = 0, dict[int, int]()
    for tap in sorted(taps):
        first, place = divmod(tap, stride)
        begin = max(first, ends.get(place, 0))
        ends[place] = end = max(begin, min(first + outputs, -((place - length) // stride)))
        count += end - begin
    return count


_MOST_TAPS = 4096
"""Windows longer than this along an axis are taken to touch all of it."""


def _per_axis(sizes: Any, default: int, axes: int) -> tuple[int, ...]:
    """Return one size for each axis; a single one stands for all, and `default` for none and for padding by name ("valid" is
    none, "same" allows no stride)."""
    if sizes in (None, ()) or isinstance(sizes, str):
        return (default,) * axes
    given = sizes if isinstance(sizes, tuple) else (sizes,)
    return given if len(given) == axes else given * axes


def _matmul(layer: Layer) -> dict[str, float]:
    """`batches` products [m, k] x [k, n]; leading dimensions shared by both operands are batches, and so are those of rows
    that no view shows as one matrix: ATen multiplies each of their matrices by the same weight (`should_fold`, no gradients)."""
    if layer.kind in _OF_OTHER_OPERANDS:
        return _OF_OTHER_OPERANDS[layer.kind](layer)
    left, right = (layer.inputs[1], layer.inputs[2]) if layer.kind in ("addmm", "baddbmm", "addbmm") else layer.inputs[:2]
    out = layer.outputs[0]
    batches = prod(right.shape[:-2]) if len(right.shape) > 2 else 1
    if layer.kind in ("linear", "matmul") and len(right.shape) < 3 and not _is_one_matrix(left):
        batches = prod(left.shape[:-2])
    n = right.shape[-2:][0] if layer.kind in _BY_ROWS else right.shape[-1] if len(right.shape) > 1 else 1
    copied = [x for x in _expanded(left, right) if _is_copied(x)]
    # ATen adds the bias within the product, but for inputs of three dimensions and more that do not lie together
    added = layer.kind == "linear" and layer.operand("bias") is not None and len(left.shape) > 2 and left.strides is not None
    return {
        "batches": batches,
        "m": left.shape[-2] if layer.kind == "addbmm" else out.elements / max(1, n * batches),
        "n": n,
        "k": left.shape[-1],
        "in_channels": left.shape[-1],
        "out_channels": n,
        "weight_bytes": right.size_bytes,
        "transposed": layer.kind in _BY_ROWS,
        "copies": len(copied),
        "added": added,
        "copied_bytes": sum(x.bytes_of(x.elements) for x in copied),  # written in full, what is expanded as well
    }


def _trilinear(layer: Layer) -> dict[str, float]:
    """[rows, in1] x [in1, in2] for each output feature, as ATen unrolls it."""
    first, weight = layer.inputs[:2]
    features, k, n = weight.shape
    return {
        "batches": features, "m": first.shape[0], "n": n, "k": k,
        "in_channels": k, "out_channels": features, "weight_bytes": weight.size_bytes,
    }  # fmt: skip


def _packed_weight(layer: Layer) -> dict[str, float]:
    """As `linear`, but the weight is packed: into an operand of a shape of its own, or to a byte a number and none at all."""
    x, n, weight = layer.inputs[0], layer.outputs[0].shape[-1], layer.operand("mat2")
    k = x.shape[-1]
    return {
        "batches": 1, "m": x.elements / max(1, k), "n": n, "k": k, "in_channels": k, "out_channels": n,
        "weight_bytes": n * k if weight is None else weight.size_bytes, "transposed": True,
    }  # fmt: skip


def _grouped(layer: Layer) -> dict[str, float]:
    """Rows parted among matrices: as many products as there are matrices that rows meet, of as many rows each."""
    rows, weight = layer.inputs[:2]
    met, (k, n) = max(1, matrices_met(layer)), weight.shape[-2:]
    return {
        "batches": met, "m": rows.elements / max(1, k * met), "n": n, "k": k, "in_channels": k, "out_channels": n,
        "weight_bytes": weight.bytes_of(met * k * n),
    }  # fmt: skip


_BY_ROWS = ("linear", "_weight_int8pack_mm", "cdist", "_cdist_forward")
"""Products whose second operand is [n, k]."""
_OF_OTHER_OPERANDS: dict[str, Callable[[Layer], dict[str, Any]]] = {
    "_trilinear": _trilinear, "_grouped_mm": _grouped,
    **dict.fromkeys((*LINEAR_DYNAMIC, "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu"), _packed_weight),
}  # fmt: skip


def _expanded(left: Operand, right: Operand) -> list[Operand]:
    """Return both operands with the batches that they share, as `matmul` expands them."""
    if min(len(left.shape), len(right.shape)) < 3:
        return [left, right]
    try:
        batches = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    except ValueError:
        raise InputError(
            f"operands {left.shape} and {right.shape} of a product share no batches: correct the shapes of the layer"
        ) from None
    found = []
    for x in (left, right):
        more = len(batches) - len(x.shape) + 2
        kept = [0 if i < more or x.shape[i - more] < n else x.steps[i - more] for i, n in enumerate(batches)]
        found.append(Operand(x.name, (*batches, *x.shape[-2:]), x.dtype, (*kept, *x.steps[-2:])))
    return found


def _is_copied(x: Operand) -> bool:
    """Whether a product copies an operand first: BLAS takes matrices with one dimension of stride 1 that lie one stride apart,
    and what no view can show so (heads parted from positions, say) ATen clones."""
    if x.strides is None or len(x.shape) < 2:
        return False
    sizes = list(zip(x.shape, x.strides))
    (rows, down), (width, across) = sizes[-2:]
    fits = (across == 1 and down >= max(1, width)) or (down == 1 and across >= max(1, rows))
    apart = [(n, stride) for n, stride in sizes[:-2] if n > 1]
    return not fits or any(far != near * n for (_, far), (n, near) in pairwise(apart))


def _is_one_matrix(x: Operand) -> bool:
    """Whether a view shows all dimensions but the last as one."""
    rows = [] if x.strides is None else list(zip(x.shape, x.strides))[:-1]
    return all(far == near * n for (_, far), (n, near) in pairwise(rows))


def _attention(layer: Layer) -> dict[str, float]:
    """[query length, head size] x [head size, key length] for each head of each sample."""
    query, key = layer.inputs[:2]
    heads_per_kv = prod(query.shape[1:-2]) / max(1, prod(key.shape[1:-2]))
    # flash attention takes the heads that share keys for the queries of one, where each has one (seqlenq_ngroups_swapped); it
    # knows no mask, and heads of whole eights
    flash = DTYPE_BYTES[layer.dtype] == 2 and layer.operand("attn_mask") is None and query.shape[-1] % 8 == 0
    together = max(1.0, heads_per_kv) if flash and query.shape[-2] == 1 else 1.0
    return {
        "batches": prod(query.shape[:-2]) / together,
        "m": query.shape[-2] * together,
        "n": key.shape[-2],
        "k": query.shape[-1],
        "causal": bool(layer.argument("is_causal", False)),
        "heads_per_kv": heads_per_kv,
    }


def _recurrent(layer: Layer) -> dict[str, float]:
    """One [batch, inputs + hidden] product a time step of each cell (layer and direction), one after another; a packed batch is
    taken at its mean size.

    Inputs are [steps, batch, features], with `batch_first` [batch, steps, features], of one sample [steps, features], and packed
    [all rows, features] beside the batch size of every step (torch.nn.LSTM, torch.nn.utils.rnn.PackedSequence).
    """
    x, packed = layer.inputs[0], layer.operand("batch_sizes")
    steps = packed.elements if packed else x.shape[int(len(x.shape) > 2 and layer.argument("batch_first", False))]
    matrices = [p for p in layer.inputs if p.name == "params" and len(p.shape) == 2]
    state = layer.operand("hx")
    weights, cells = sum(p.elements for p in matrices), max(1, state.shape[0] if state else 1)
    rows = matrices[0].shape[0] if matrices else 0  # of all gates: weight_ih comes first
    return {
        "batches": steps * cells,
        "m": prod(x.shape[:-1]) / max(1, steps),
        "n": rows,
        "k": weights / max(1, rows) / cells,
        "weight_bytes": sum(p.size_bytes for p in matrices),
    }


def _reduced(layer: Layer) -> dict[str, float]:
    """`m` results, each reduced from `n` elements."""
    x, out = layer.inputs[0], layer.outputs[0]
    return {"batches": 1, "m": out.elements, "n": x.elements / max(1, out.elements), "k": 1, **_image(layer)}


def _normed(layer: Layer) -> dict[str, float]:
    """`m` statistics, each over `n` elements: per channel for batch norm, over the last dimensions otherwise. Batch norm in eval
    mode has none, but a block for the positions of every channel of every sample, unless its channels lie side by side."""
    x = layer.inputs[0]
    scale = layer.operand("weight") or layer.operand("running_mean")
    copied = layer.kind in _COPIED_FIRST and x.strides is not None
    if layer.kind == "batch_norm" and (layer.argument("training", False) or x.steps[1] == 1):
        rows = float(x.shape[1])
    elif layer.kind in ("batch_norm", "instance_norm"):
        rows = float(prod(x.shape[:2]))
    elif layer.kind == "group_norm":
        rows = float(x.shape[0] * layer.argument("num_groups", 1))
    elif layer.group == "softmax":
        rows = x.elements / max(1, x.shape[layer.argument("dim", -1)] if x.shape else 1)
    else:
        shape = layer.argument("normalized_shape") or (scale.shape if scale else x.shape[-1:])
        if scale is None and x.shape[-len(shape) :] != tuple(shape):
            raise ValueError(shape)
        rows = x.elements / max(1, prod(shape))
    n = x.elements / max(1.0, rows)
    further = _further(layer, n)
    return {
        "batches": 1, "m": rows, "n": n, "k": 1, "copies": copied, "copied_bytes": x.bytes_of(x.elements) * copied,
        "further": further, "reread_bytes": x.bytes_of(x.elements) * (further > 0), **_image(layer),
    }  # fmt: skip


def _further(layer: Layer, n: float) -> int:
    """Return how many kernels ATen launches on GPUs for a norm over `n` elements beside the first.

    Layer and RMS norms are one (layer_norm_kernel.cu since PyTorch 1.11) where rows are whole fours of at most 2**24 numbers that
    float32 holds, else one for the moments of rows and one that reads them again. Group norms are such a pair, and one between
    them joins moments with the weights of channels, if these are given and images larger than a number (group_norm_kernel.cu).
    """
    if layer.kind == "group_norm":
        return 1 + (any(map(layer.operand, ("weight", "bias"))) and prod(layer.inputs[0].shape[2:]) > 1)
    in_one = n % 4 == 0 and n <= 2**24 and DTYPE_BYTES[layer.dtype] <= 4 and not layer.argument(MOMENTS_APART, False)
    return int(layer.kind in _IN_ROWS and not in_one)


def _pooled(layer: Layer) -> dict[str, float]:
    """`m` results, each gathered from a window; what adapts to its output has windows as large as they must be."""
    sizes, axes, window = _reduced(layer), pooled_axes(layer), layer.argument("kernel_size")
    return sizes | {
        "window": sizes["n"] if window is None else window_elements(layer),
        "stride": _mean(layer.argument("stride") or window or (sizes["n"] ** (1 / axes),)),
        "out_positions": prod(layer.outputs[0].shape[-axes:]),
    }


def _mapped(layer: Layer) -> dict[str, float]:
    """Each output element on its own."""
    elements = max((x.elements for x in layer.outputs), default=1)
    return {"batches": 1, "m": elements, "n": 1, "k": 1, **_image(layer)}


def _image(layer: Layer) -> dict[str, float]:
    """Channels and positions of an image-like tensor [batch, channels, …]; of others the last dimension and the rest."""
    shape = next((x.shape for x in (*layer.inputs, *layer.outputs)), ())
    if len(shape) >= 4:
        channels, positions = shape[1], prod(shape[2:])
    else:
        channels, positions = (shape[-1], prod(shape[1:-1])) if shape else (1, 1)
    return {"in_channels": channels, "out_channels": channels, "in_positions": positions}


def _mean(sizes: Any) -> float:
    return sum(sizes) / len(sizes) if isinstance(sizes, tuple) and sizes else float(sizes or 1)


_SIZES: dict[str, Callable[[Layer], dict[str, Any]]] = {
    "conv": _conv, "matmul": _matmul, "attention": _attention, "recurrent": _recurrent, "norm": _normed,
    "softmax": _normed, "pooling": _pooled, "reduction": _reduced,
}  # fmt: skip

assert set(GROUP_CODES) >= {kind.group for kind in KINDS.values()}
