"""What operators return on meta tensors where torch fails to say, differs from a device, or need not be asked again."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch
from torch.utils._pytree import tree_map

from ..kinds import LINEAR_DYNAMIC
from .call import ALLOCATIONS, schema_of
from .constants import is_alias, tensors_in

Again = Callable[[Any], Any]
"""Makes the result of a call whose equal was seen before from its arguments."""


def _grouped_product(func: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor | None:
    """Its meta registration knows bfloat16 only, its kernels all."""
    if x.dtype == torch.bfloat16:
        return None
    half = tree_map(lambda t: t.bfloat16() if isinstance(t, torch.Tensor) and t.is_floating_point() else t, (x, *args))
    product: torch.Tensor = func(*half, **kwargs)
    return product.to(x.dtype)


def _int4_product(func: Any, x: torch.Tensor, weight: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor | None:
    """Its meta registration asks for the device of a fake tensor; tiles of the weight hold eight channels each."""
    return x.new_empty(x.shape[0], 8 * weight.shape[0]) if (x.dim(), weight.dim()) == (2, 4) else None


def _dynamic_product(func: Any, x: torch.Tensor, packed: Any, *_: Any, **__: Any) -> torch.Tensor | None:
    """A dynamically quantised linear layer has no meta kernel; the packed weight knows its own shape."""
    if not x.is_meta:
        return None
    features, shared = torch.ops.quantized.linear_unpack(packed)[0].shape
    if x.shape[-1:] != (shared,):
        raise RuntimeError(f"a weight for {shared} features meets an input of {list(x.shape)}")
    return x.new_empty((*x.shape[:-1], features))


def _fused_cell(func: Any, of_input: torch.Tensor, of_hidden: torch.Tensor, state: torch.Tensor, *_: Any) -> Any:
    """A GRU's has no meta kernel, an LSTM's one that asks for biases. What backward passes read of them is written as well:
    an LSTM's gates, five numbers of a GRU for each of its state (ATen/native/cuda/RNN.cu)."""
    if schema_of(func)[0] == "_thnn_fused_gru_cell":
        return torch.empty_like(state), state.new_empty(state.shape[0], 5 * state.shape[1])
    return torch.empty_like(state), torch.empty_like(state), torch.empty_like(of_input)


def _drawn(func: Any, first: torch.Tensor, *others: Any, **_: Any) -> torch.Tensor:
    """What is drawn for each element of the parameters."""
    shapes = [x.shape for x in (first, *others) if isinstance(x, torch.Tensor)]
    return first.new_empty(torch.broadcast_shapes(*shapes))


STAND_INS: dict[str, Callable[..., Any]] = {
    "_grouped_mm": _grouped_product, "_weight_int4pack_mm": _int4_product,
    "_thnn_fused_lstm_cell": _fused_cell, "_thnn_fused_gru_cell": _fused_cell,
    "_sample_dirichlet": _drawn, "binomial": _drawn,
    **dict.fromkeys(LINEAR_DYNAMIC, _dynamic_product),
}  # fmt: skip
"""What gives an operator's result on meta tensors where it fails to; None where it fails for another reason."""


def needs_values(error: Exception) -> bool:
    """Whether an operator failed because a meta tensor has no values, not because it was called wrongly."""
    return isinstance(error, NotImplementedError) or "meta" in str(error)


def again_of(func: Any, args: Any, kwargs: Any, result: Any) -> Again | None:
    """Return what makes the result of another equal call, given its arguments; None where only the operator can tell."""
    if func._schema.is_mutable:
        kept = bool(args) and result is args[0] and schema_of(func)[0] not in ALLOCATIONS
        return itemgetter(0) if kept and torch.Tag.inplace_view not in func.tags else None
    if args and result is args[0]:  # nothing to do, such as dropout in eval mode
        return itemgetter(0)
    outputs = [result] if isinstance(result, torch.Tensor) else result
    if not isinstance(outputs, list | tuple):
        return None
    if not all(type(x) is torch.Tensor and x.is_meta and x.layout == torch.strided for x in outputs):
        return None
    others = [*tensors_in((args, kwargs)), *outputs]
    if any(is_alias(x, other) for x in outputs for other in others if other is not x):
        return None
    shapes = [(tuple(x.shape), x.stride(), x.dtype) for x in outputs]
    if isinstance(result, torch.Tensor):
        return lambda _: _empty(*shapes[0])
    return lambda _: type(result)(_empty(*x) for x in shapes)


def as_fused(func: Any, args: Any, result: Any) -> Any:
    """Lay out attention's output as fused kernels do, like the query: so no copy is seen where none runs.

    torch/_meta_registrations.py, alloc_with_matching_layout; the meta device itself goes through the unfused path.
    """
    if schema_of(func)[0] != "scaled_dot_product_attention" or not result.is_meta:
        return result
    strides = args[0].stride()
    order = sorted(range(result.dim()), key=lambda axis: strides[axis], reverse=True)
    back = sorted(range(result.dim()), key=order.__getitem__)
    return result.new_empty([result.shape[axis] for axis in order]).permute(back)


def _empty(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")
