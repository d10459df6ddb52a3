"""Operators put together again: what core ATen took apart (`run_decompositions`) as the operators that modules call and that were
measured, and those that do the work of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import EllipsisType
from typing import Any

import torch
from torch.nn import functional

from ..kinds import causal_from_last

Tensor = torch.Tensor
Statistics = tuple[Tensor, EllipsisType, EllipsisType]
"""A norm's result, beside statistics that only a backward pass reads."""


def _convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    **_: bool,
) -> Tensor:
    spatial = weight.dim() - 2
    plain = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
    back = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}
    if transposed:
        return back[spatial](input, weight, bias, stride, padding, output_padding, groups, dilation)
    return plain[spatial](input, weight, bias, stride, padding, dilation, groups)


def _slow_conv2d(
    self: Tensor, weight: Tensor, kernel_size: Sequence[int], bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    return torch.conv2d(self, weight, bias, stride, padding)


def _cudnn_convolution(
    self: Tensor, weight: Tensor, padding: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int, **_: bool
) -> Tensor:
    return _convolution(self, weight, None, stride, padding, dilation, False, (), groups)


def _sparse_mm(sparse: Tensor, dense: Tensor, **_: str) -> Tensor:
    return torch.mm(sparse, dense)


def _sparse_addmm(self: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return torch.addmm(self, mat1, mat2, beta=beta, alpha=alpha)


def _batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> Statistics:
    return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps), ..., ...


def _batch_norm_legit(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    **_: float,
) -> Statistics:
    """What instance norms come to, and batch norms in train mode: without statistics of before it takes those of its input."""
    return functional.batch_norm(input, running_mean, running_var, weight, bias, training or running_mean is None), ..., ...


def _layer_norm(input: Tensor, normalized_shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Statistics:
    return functional.layer_norm(input, normalized_shape, weight, bias, eps), ..., ...


def _group_norm(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, N: int, C: int, HxW: int, group: int, eps: float
) -> Statistics:
    return functional.group_norm(input, group, weight, bias, eps), ..., ...


def _softmax(self: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return torch.softmax(self, dim, dtype=torch.float32 if half_to_float else None)


def _log_softmax(self: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return torch.log_softmax(self, dim, dtype=torch.float32 if half_to_float else None)


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, is_causal: bool = False, **_: Any) -> tuple[Tensor, EllipsisType]:
    causal = is_causal and causal_from_last(query.shape[2], key.shape[2])
    return functional.scaled_dot_product_attention(query, key, value, is_causal=causal), ...


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None = None,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    **_: Any,
) -> tuple[Tensor, EllipsisType]:
    mask = attn_bias if attn_mask is None else attn_mask
    return functional.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal and mask is None), ...


def _attention_by_position(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    cum_seq_q: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    is_causal: bool = False,
    custom_mask_type: int = 0,
    **_: Any,
) -> Any:
    """What fused attention calls, on [batch, position, head, size], flash attention (`is_causal`) and the second type of mask
    causal from the last query; sequences that are packed in one, whose lengths are values, are left as they are."""
    if cum_seq_q is not None or cu_seqlens_q is not None:
        return NotImplemented
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    causal = custom_mask_type == 1 or ((is_causal or custom_mask_type == 2) and causal_from_last(q.shape[2], k.shape[2]))
    grouped = q.shape[1] != k.shape[1]
    mixed = functional.scaled_dot_product_attention(q, k, v, bias, is_causal=causal and bias is None, enable_gqa=grouped)
    return mixed.transpose(1, 2), ...


def _multi_head_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim: int,
    num_head: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    mask: Tensor | None = None,
    need_weights: bool = True,
    average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The fast path of `nn.MultiheadAttention` on CUDA devices: aten/src/ATen/native/transformers/cuda/attention.cu.

    One product of all rows with the packed weights. Then fused attention, or, where a mask or the weights are asked for, two
    products around a softmax, which reads the mask (next to nothing beside the scores). CPUs take these two always.
    """
    batch, length, _ = query.shape
    heads = functional.linear(query, qkv_weight, qkv_bias).view(batch, length, 3, num_head, -1).permute(2, 0, 3, 1, 4)
    if mask is None and not need_weights and heads.shape[-1] % 8 == 0:
        mixed = functional.scaled_dot_product_attention(*heads)
        return functional.linear(mixed.transpose(1, 2).reshape(batch, length, embed_dim), proj_weight, proj_bias), None
    q, k, v = heads.contiguous().flatten(1, 2)
    scores = torch.bmm(q, k.mT).softmax(-1)
    mixed = torch.bmm(scores, v).view(batch, num_head, length, -1).transpose(1, 2).reshape(batch, length, embed_dim)
    shared = scores.view(batch, num_head, length, length)
    if need_weights and average_attn_weights:
        shared = shared.sum(1) / num_head
    return functional.linear(mixed, proj_weight, proj_bias), shared if need_weights else None


def _encoder_layer(
    within: Callable[[str], AbstractContextManager[None]],
    src: Tensor,
    embed_dim: int,
    num_heads: int,
    qkv_weight: Tensor,
    qkv_bias: Tensor,
    proj_weight: Tensor,
    proj_bias: Tensor,
    use_gelu: bool,
    norm_first: bool,
    eps: float,
    norm_weight_1: Tensor,
    norm_bias_1: Tensor,
    norm_weight_2: Tensor,
    norm_bias_2: Tensor,
    ffn_weight_1: Tensor,
    ffn_bias_1: Tensor,
    ffn_weight_2: Tensor,
    ffn_bias_2: Tensor,
    mask: Tensor | None = None,
    mask_type: int | None = None,
) -> Tensor:
    """The fast path of `nn.TransformerEncoderLayer`: aten/src/ATen/native/transformers/transformer.cpp, on padded tensors.

    The activation, which its kernel joins to a product, is counted apart. `within` names the submodule that does a part.
    """

    def norm(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with within(name):
            return functional.layer_norm(x, [embed_dim], weight, bias, eps)

    def attention(x: Tensor) -> Tensor:
        weights = qkv_weight, qkv_bias, proj_weight, proj_bias
        with within("self_attn"):
            return _multi_head_attention(x, x, x, embed_dim, num_heads, *weights, mask, need_weights=False)[0]

    def feed_forward(x: Tensor) -> Tensor:
        with within("linear1"):
            x = functional.linear(x, ffn_weight_1, ffn_bias_1)
        x = functional.gelu(x) if use_gelu else functional.relu(x)
        with within("linear2"):
            return functional.linear(x, ffn_weight_2, ffn_bias_2)

    first, second = ("norm1", norm_weight_1, norm_bias_1), ("norm2", norm_weight_2, norm_bias_2)
    if norm_first:
        x = src + attention(norm(first[0], src, *first[1:]))
        return x + feed_forward(norm(second[0], x, *second[1:]))
    x = norm(first[0], src + attention(src), *first[1:])
    return norm(second[0], x + feed_forward(x), *second[1:])


def _lstm_cell(
    input: Tensor, hx: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A cell on CUDA devices: two products, then one kernel (aten/src/ATen/native/RNN.cpp)."""
    _check_states(input, w_hh, *hx)
    products = torch.matmul(input, w_ih.t()), torch.matmul(hx[0], w_hh.t())
    hidden, cell, _ = torch.ops.aten._thnn_fused_lstm_cell(*products, hx[1], b_ih, b_hh)
    return hidden, cell


def _check_states(input: Tensor, w_hh: Tensor, *states: Tensor) -> None:
    """Raise RuntimeError, as PyTorch does, for a state of another batch or size than the cell's."""
    expected = (input.shape[0], w_hh.shape[1])
    for state in states:
        if state.shape != expected:
            raise RuntimeError(f"a state is {list(state.shape)}, not {list(expected)} (batch, hidden size)")


def _gru_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """As `_lstm_cell`."""
    _check_states(input, w_hh, hx)
    products = torch.matmul(input, w_ih.t()), torch.matmul(hx, w_hh.t())
    hidden: Tensor = torch.ops.aten._thnn_fused_gru_cell(*products, hx, b_ih, b_hh)[0]
    return hidden


def _lifted(self: Tensor) -> Tensor:
    """A constant of the program is copied before it is used, for what follows may write to it."""
    return self.clone()


def _pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """One batch that is filled, and each sequence copied into its place (aten/src/ATen/native/PackedSequence.cpp); the recipe in
    Python that torch decomposes it to copies the whole batch for each."""
    first, longest = sequences[0], max(x.shape[0] for x in sequences)
    sizes = (len(sequences), longest) if batch_first else (longest, len(sequences))
    padded = first.new_full((*sizes, *first.shape[1:]), padding_value)
    for i, x in enumerate(sequences):
        row = padded.select(0 if batch_first else 1, i)
        (row[longest - x.shape[0] :] if padding_side == "left" else row[: x.shape[0]]).copy_(x)
    return padded


ENCODER_LAYER = "_transformer_encoder_layer_fwd"
COMPOSITES: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "convolution_overrideable": _convolution,
    "cudnn_convolution": _cudnn_convolution,
    "_slow_conv2d_forward": _slow_conv2d,
    "_sparse_mm": _sparse_mm,
    "_sparse_addmm": _sparse_addmm,
    "_native_batch_norm_legit": _batch_norm_legit,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "lift_fresh_copy": _lifted,
    "_native_multi_head_attention": _multi_head_attention,
    ENCODER_LAYER: _encoder_layer,
    "lstm_cell": _lstm_cell,
    "gru_cell": _gru_cell,
    "pad_sequence": _pad_sequence,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _flash_attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_flash_attention_forward": _attention_by_position,
    "_efficient_attention_forward": _attention_by_position,
    "_scaled_dot_product_fused_attention_overrideable": _attention,
}
"""By the name of the operator, whose arguments they take by name; `...` stands for results that they leave to the operator,
NotImplemented for all of a call. The one of a whole module also takes `within`, which names a part of it."""
