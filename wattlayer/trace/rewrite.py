"""Changing a trace instead of the network: channels padded, attention fused, weights held in fewer bits.

All keep what the network computes (padding computes zeros beside it), so no module has to be rebuilt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any

from ..layer import GROUP_SIZE, SCALE, Argument, Layer, Operand, check_dtype
from . import Trace, trace
from .assumptions import HELD_WEIGHTS

if TYPE_CHECKING:
    from torch import nn

ALIGNMENT = 8
"""Channels of half precision that tensor cores take at once (NVIDIA, "Matrix multiplication background", DU-09799)."""

_PRODUCTS = ("matmul", "bmm", "baddbmm")
_BETWEEN = frozenset({"elementwise", "copy", "softmax"})
_LOOK_BACK, _LOOK_AHEAD = 8, 4


def aligned(trace: Trace, multiple: int = ALIGNMENT) -> Trace:
    """Return `trace` with every width of a convolution or linear layer padded to a multiple; inputs of a few channels stay."""
    widths = {n: ceil(n / multiple) * multiple for x in trace.unique() for n in _widths(x) if n > multiple and n % multiple}
    axes = {shape: axis for x in trace.unique() for shape, axis in _channels(x)}
    changed = {x: _padded(x, widths, axes) for x in trace.unique()}
    return replace(trace, layers=tuple(changed[x] for x in trace.layers))


def _widths(layer: Layer) -> tuple[int, ...]:
    weight = layer.operand("weight")
    if weight is None or len(weight.shape) < 2 or layer.group not in ("conv", "matmul"):
        return ()
    return weight.shape[:1] if layer.argument("groups", 1) > 1 else weight.shape[:2]


def _channels(layer: Layer) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield shapes of the activations of a layer that tells which of their axes holds channels, and that axis."""
    weight = layer.operand("weight")
    for x in (*layer.inputs[:1], *layer.outputs[:1]):
        if layer.group == "conv" and weight is not None:
            yield x.shape, len(x.shape) - len(weight.shape) + 1
        elif layer.kind == "linear" or len(layer.argument("normalized_shape", ())) == 1:
            yield x.shape, len(x.shape) - 1
        elif layer.kind in ("batch_norm", "group_norm", "instance_norm") and len(x.shape) > 1:
            yield x.shape, 1


def _padded(layer: Layer, widths: Mapping[int, int], axes: Mapping[tuple[int, ...], int]) -> Layer:
    if not widths or layer.group in ("attention", "recurrent"):
        return layer
    axes = {**axes, **dict(_channels(layer))}  # where two layers tell of one shape, each knows its own
    inputs, outputs = (tuple(_wider(x, layer, widths, axes) for x in side) for side in (layer.inputs, layer.outputs))
    arguments = tuple((k, _wider_argument(k, v, inputs[0], widths)) for k, v in layer.arguments)
    return replace(layer, inputs=inputs, outputs=outputs, arguments=arguments)


def _wider_argument(name: str, value: Argument, padded: Operand, widths: Mapping[int, int]) -> Argument:
    if name == "groups" and isinstance(value, int):
        return widths.get(value, value)
    # what a norm runs over are the last axes of its input
    return padded.shape[-len(value) :] if name == "normalized_shape" and isinstance(value, tuple) else value


def _wider(x: Operand, layer: Layer, widths: Mapping[int, int], channels: Mapping[tuple[int, ...], int]) -> Operand:
    """Pad the axes that hold channels: both of a product's matrices, that of `channels` for a shape in it; of other shapes
    axis 1 where they may be images, else the last."""
    axes: tuple[int, ...] = (_axis(x, channels),)
    if layer.group == "matmul" and x.name in ("other", "mat2", "batch2"):
        axes = (len(x.shape) - 2, len(x.shape) - 1)
    if layer.argument("normalized_shape") and x.name in ("weight", "bias"):
        axes = (_axis(layer.inputs[0], channels) - len(layer.inputs[0].shape) + len(x.shape),)
    elif x.name == "weight" and len(x.shape) >= 2:
        axes = (0, 1)
    shape = tuple(widths.get(n, n) if axis in axes else n for axis, n in enumerate(x.shape))
    return x if shape == x.shape else replace(x, shape=shape, strides=_repacked(shape, x.strides))


def _axis(x: Operand, channels: Mapping[tuple[int, ...], int]) -> int:
    return channels.get(x.shape, 1 if len(x.shape) >= 4 else len(x.shape) - 1)


def _repacked(shape: Sequence[int], strides: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Strides of a dense tensor of `shape` whose axes lie in memory in the order that `strides` says; 0 stays 0."""
    if strides is None:
        return None
    step, result = 1, [0] * len(shape)
    for axis in sorted(range(len(shape)), key=lambda a: (strides[a], -a)):
        if strides[axis]:
            result[axis], step = step, step * shape[axis]
    return tuple(result)


_OTHER_WEIGHTS = ("addmm", "_grouped_mm")
"""Products beside `linear` whose second factor is a weight."""


def computes_in(dtype: str) -> str:
    """Return what a network asked for in `dtype` computes in; raise InputError for an unknown one.

    Where weights alone are held in fewer bits that is float16: every GPU since 2017 has it, bfloat16 came later.
    """
    return "float16" if check_dtype(dtype) in HELD_WEIGHTS else dtype


def with_weights(trace: Trace, dtype: str | None) -> Trace:
    """Return `trace` with weights of linear layers in `dtype` where that is "int8" or "int4": weight-only quantisation.

    As torchao's `Int8WeightOnlyConfig` and `Int4WeightOnlyConfig` do it to `nn.Linear`: the product still runs in the dtype of
    the activations, so its FLOP stay and only bytes go. In come scales: one for each output channel (int8), or one and a
    zero point for every `GROUP_SIZE` weights of a channel (int4). Any other `dtype` leaves the trace as it is.
    """
    if dtype is None or dtype not in HELD_WEIGHTS:
        return trace
    changed = {x: _held(x, dtype) for x in trace.unique()}
    layers = tuple(changed[x] for x in trace.layers)
    return replace(trace, layers=layers, assumptions=(*trace.assumptions, *held_weights(trace, dtype)))


def held_weights(trace: Trace, dtype: str) -> tuple[str, ...]:
    """Return what `with_weights` takes for granted of a whole trace; nothing where `dtype` leaves weights as they are."""
    return (HELD_WEIGHTS[dtype], *_left_out(trace)) if dtype in HELD_WEIGHTS else ()


def _left_out(trace: Trace) -> tuple[str, ...]:
    """Tell what share of weights lies in products that no `nn.Linear` calls: experts in one tensor, GPT-2's `Conv1D`."""
    size: Counter[bool] = Counter()
    for layer, calls in trace.unique().items():
        weight = layer.operand("weight" if layer.kind == "linear" else "mat2")
        if layer.kind in ("linear", *_OTHER_WEIGHTS) and weight is not None:
            size[layer.kind == "linear"] += calls * weight.elements
    share = size[False] / max(1, size.total())
    return (f"{share:.0%} of the weights are of no linear layer (experts, Conv1D) and stay in float16",) if share >= 0.005 else ()


def trace_as(dtype: str | None, module: nn.Module, *inputs: Any, **options: Any) -> Trace:
    """Return `wattlayer.trace(module, *inputs, **options)` in `dtype`, "int8" and "int4" too; raise InputError as it does."""
    return with_weights(trace(module, *inputs, dtype=None if dtype is None else computes_in(dtype), **options), dtype)


def _held(layer: Layer, dtype: str) -> Layer:
    weight = layer.operand("weight")
    if layer.kind != "linear" or weight is None or "float" not in weight.dtype:
        return layer
    channels, fan_in = weight.shape[:1], weight.shape[-1]
    scale = Operand(SCALE, channels if dtype == "int8" else (*channels, -(-fan_in // GROUP_SIZE), 2), weight.dtype)
    inputs = tuple(replace(x, dtype=dtype) if x is weight else x for x in layer.inputs)
    return replace(layer, inputs=(*inputs, scale))


def fused(trace: Trace) -> Trace:
    """Return `trace` with every product, softmax, product in a row as one `scaled_dot_product_attention`.

    What lies between them may only be element-wise or a copy (scale, mask, dropout); scores are not written to memory then
    (Dao et al., FlashAttention, NeurIPS 2022).
    """
    layers, paths = list(trace.layers), list(trace.paths)
    i = 0
    while i < len(layers):
        span = _attention_span(layers, i) if layers[i].group == "softmax" else None
        if span:
            first, last = span
            layers[first : last + 1] = [_attention(layers[first], layers[last], trace.tf32)]
            paths[first : last + 1] = [paths[first]]
            i = first
        i += 1
    return replace(trace, layers=tuple(layers), paths=tuple(paths), flow=None)


def _attention_span(layers: Sequence[Layer], i: int) -> tuple[int, int] | None:
    """Return the places of the two products around the softmax at `i`."""
    scores = layers[i].inputs[0].shape
    if len(scores) < 3:
        return None
    first = _product(layers, range(i - 1, max(-1, i - 1 - _LOOK_BACK), -1))
    last = _product(layers, range(i + 1, min(len(layers), i + 1 + _LOOK_AHEAD)))
    if first is None or last is None:
        return None
    whole = layers[first].outputs[0].shape[-2:] == scores[-2:] == layers[last].inputs[-2].shape[-2:]
    return (first, last) if whole else None


def _product(layers: Sequence[Layer], places: range) -> int | None:
    for place in places:
        if layers[place].kind in _PRODUCTS:
            return place
        if layers[place].group not in _BETWEEN:
            return None
    return None


def _attention(first: Layer, last: Layer, tf32: str) -> Layer:
    query, key = first.inputs[-2:]
    value = last.inputs[-1]
    turned = replace(key, name="key", shape=(*key.shape[:-2], key.shape[-1], key.shape[-2]), strides=None)
    inputs = (replace(query, name="query", strides=None), turned, replace(value, name="value", strides=None))
    return Layer("scaled_dot_product_attention", inputs, last.outputs).with_tf32(tf32)
