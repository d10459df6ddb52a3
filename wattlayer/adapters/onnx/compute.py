"""ONNX operators with arithmetic over windows, matrices and sequences: convolution, matmul, attention, norms, pooling, LSTM."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from ...errors import InputError
from .graph import Node
from .operators import ends, operator, padding, spatial

Tensor = torch.Tensor
_CONV: dict[int, Any] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_BACK: dict[int, Any] = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}
_MAX: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_MEAN: dict[int, Any] = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _rank(node: Node, x: Tensor) -> int:
    if not 3 <= x.dim() <= 5:
        raise InputError(f"{node.label} works on {x.dim()} dimensions; 3 to 5 (one to three spatial ones) are priced")
    return x.dim() - 2


def _kernel(node: Node, weight: Tensor) -> tuple[int, ...]:
    """Return the size of a weight's windows; raise InputError where there are none, or the node says another."""
    kernel = tuple(weight.shape[2:])
    if 0 in weight.shape:
        raise InputError(f"{node.label}: its weight of {tuple(weight.shape)} is empty: export the network again")
    if tuple(node.get("kernel_shape", kernel)) != kernel:
        raise InputError(f"{node.label}: its kernel_shape {node.get('kernel_shape')} must be that of its weight, {kernel}")
    return kernel


@operator("Conv")
def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`conv1d`, `conv2d` or `conv3d`; padding that is not symmetric is a layer of its own."""
    rank = _rank(node, x)
    strides, dilations = spatial(node, "strides", rank, 1), spatial(node, "dilations", rank, 1)
    x, pads = padding(node, x, _kernel(node, weight), strides, dilations)
    if bias is not None and bias.stride() == (0,):  # a zero, expanded: how torch.onnx writes that there is no bias
        bias = None
    return _CONV[rank](x, weight, bias, strides, pads, dilations, node.get("group", 1))


@operator("ConvTranspose")
def conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`conv_transpose1d` to `3d`; what is cut off at one end alone leaves a view."""
    rank = _rank(node, x)
    strides, dilations = spatial(node, "strides", rank, 1), spatial(node, "dilations", rank, 1)
    extra, wanted = spatial(node, "output_padding", rank, 0), spatial(node, "output_shape", rank, 0)
    spans = [(k - 1) * d + 1 for k, d in zip(_kernel(node, weight), dilations)]
    whole = [(n - 1) * s + w + e for n, s, w, e in zip(x.shape[2:], strides, spans, extra)]
    auto = "SAME_LOWER" if any(wanted) else node.get("auto_pad", "NOTSET")
    wanted = wanted if any(wanted) else tuple(min(n * s, w) for n, s, w in zip(x.shape[2:], strides, whole))
    before, after = ends(node, auto, [max(a - b, 0) for a, b in zip(whole, wanted)])
    extra = tuple(e + max(b - a, 0) for e, a, b in zip(extra, whole, wanted))
    common = tuple(map(min, before, after))
    out = _BACK[rank](x, weight, bias, strides, common, extra, node.get("group", 1), dilations)
    for axis, first, last, cut in zip(range(2, out.dim()), before, after, common):
        out = out.narrow(axis, first - cut, out.shape[axis] - first - last + 2 * cut)
    return out


@operator("MatMul")
def matmul(_: Node, a: Tensor, b: Tensor) -> Tensor:
    """`matmul` of two activations; with a weight it is `linear` (see fuse)."""
    return torch.matmul(a, b)


@operator("wattlayer.Linear")
def linear(_: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear`: weight [out, in].

    Where whole rows lie in another order, as `nn.MultiheadAttention` is exported without its fast path, they are laid out first:
    runtimes do so (onnxruntime/core/providers/cpu/tensor/transpose.cc) and multiply all at once, as the fast path does.
    """
    if x.dim() > 2 and x.stride(-1) == 1:
        x = x.reshape(-1, x.shape[-1]).view(x.shape)
    return functional.linear(x, weight, bias)


@operator("Gemm")
def gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    """`linear` where it is one (weight [out, in], no factors), else `addmm` or `mm`."""
    plain = node.get("alpha", 1.0) == 1.0 and node.get("beta", 1.0) == 1.0
    a = a.t() if node.get("transA", 0) else a
    if plain and node.get("transB", 0) and (c is None or c.dim() == 1):
        return functional.linear(a, b, c)
    b = b.t() if node.get("transB", 0) else b
    return torch.mm(a, b) if c is None else torch.addmm(c, a, b, alpha=node.get("alpha", 1.0), beta=node.get("beta", 1.0))


@operator("Einsum")
def einsum(node: Node, *operands: Tensor) -> Tensor:
    """The `bmm` that the equation comes to."""
    return torch.einsum(node.get("equation", ""), *operands)


@operator("wattlayer.Attention")
def fused_attention(node: Node, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """`scaled_dot_product_attention`, put together again by fuse; a `turned` key is [..., head size, positions]."""
    key, causal = key.transpose(-1, -2) if node.get("turned") else key, node.get("is_causal", False)
    return functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal)


@operator("Attention")
def attention(
    node: Node,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Any = None,
    past_value: Any = None,
    lengths: Any = None,
) -> Any:
    """`scaled_dot_product_attention`, heads apart [b, h, n, d] or together [b, n, h·d]; padded keys count in full.

    Raises InputError for a window that hides keys: PyTorch has no operator for that.
    """
    together = query.dim() == 3
    if together:
        heads, kv_heads = node.get("q_num_heads", 1), node.get("kv_num_heads", 1)
        query = query.unflatten(-1, (heads, -1)).transpose(1, 2)
        key, value = (x.unflatten(-1, (kv_heads, -1)).transpose(1, 2) for x in (key, value))
    if past_key is not None and past_value is not None:
        key, value = torch.cat((past_key, key), 2), torch.cat((past_value, value), 2)
    window = node.get("left_window_size", -1), node.get("right_window_size", -1)
    if any(0 <= side < key.shape[2] - 1 for side in window):
        raise InputError(f"{node.label} attends within a window {window}, which is not priced: export it as a mask")
    grouped, causal = query.shape[1] != key.shape[1], bool(node.get("is_causal", 0))
    out = functional.scaled_dot_product_attention(query, key, value, mask, is_causal=causal and mask is None, enable_gqa=grouped)
    return (out.transpose(1, 2).flatten(2) if together else out), key, value


@operator("BatchNormalization")
def batch_norm(node: Node, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """`batch_norm` in eval mode."""
    if node.get("training_mode", 0):
        raise InputError(f"{node.label} is in training mode: export the network in eval mode")
    return functional.batch_norm(x, mean, variance, weight, bias)


@operator("InstanceNormalization")
def instance_norm(_: Node, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`instance_norm`."""
    return functional.instance_norm(x, weight=weight, bias=bias)


@operator("LayerNormalization")
def layer_norm(node: Node, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """`layer_norm` over the dimensions from `axis` on, to which scale and shift are expanded."""
    shape = x.shape[node.get("axis", -1) :]
    weight, bias = (p if p is None else p.expand(shape) for p in (weight, bias))
    return functional.layer_norm(x, shape, weight, bias)


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def rms_norm(node: Node, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """`rms_norm` over the dimensions from `axis` on; by the second name ONNX Runtime knows it, in ONNX's own domain as well."""
    shape = x.shape[node.get("axis", -1) :]
    return functional.rms_norm(x, shape, weight if weight is None else weight.expand(shape))


@operator("GroupNormalization", "wattlayer.GroupNorm")
def group_norm(node: Node, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`group_norm`; a scale for each group (opset 18) is priced as one for each channel."""
    channels = x.shape[1]
    weight, bias = (p.new_empty(channels) if p.numel() != channels else p.reshape(channels) for p in (weight, bias))
    return functional.group_norm(x, node.get("num_groups", 1), weight, bias)


@operator("LRN")
def local_response_norm(node: Node, x: Tensor) -> Tensor:
    """`local_response_norm`, which torch makes of a pooling and element-wise operators."""
    return functional.local_response_norm(x, node.get("size", 1))


@operator("LpNormalization")
def lp_normalize(node: Node, x: Tensor) -> Tensor:
    """`linalg_vector_norm` and a division."""
    return functional.normalize(x, float(node.get("p", 2)), node.get("axis", -1))


@operator("Softmax", "LogSoftmax")
def softmax(node: Node, x: Tensor) -> Tensor:
    """`softmax` or `log_softmax`; before opset 13 over all dimensions from `axis` on, flattened."""
    function: Any = functional.softmax if node.op == "Softmax" else functional.log_softmax
    axis = node.get("axis", -1 if node.version >= 13 else 1)
    if node.version >= 13 or axis in (-1, x.dim() - 1):
        return function(x, axis)
    return function(x.flatten(axis), -1).reshape(x.shape)


@operator("MaxPool")
def max_pool(node: Node, x: Tensor) -> Any:
    """`max_pool1d` to `3d`, with indices where they are asked for."""
    rank = _rank(node, x)
    kernel, strides = spatial(node, "kernel_shape", rank, 1), spatial(node, "strides", rank, 1)
    dilations = spatial(node, "dilations", rank, 1)
    x, pads = padding(node, x, kernel, strides, dilations, bool(node.get("ceil_mode", 0)), pooling=True)
    indices = len(node.outputs) > 1 and bool(node.outputs[1])
    return _MAX[rank](x, kernel, strides, pads, dilations, bool(node.get("ceil_mode", 0)), indices)


@operator("AveragePool")
def average_pool(node: Node, x: Tensor) -> Tensor:
    """`avg_pool1d` to `3d`."""
    rank = _rank(node, x)
    kernel, strides = spatial(node, "kernel_shape", rank, 1), spatial(node, "strides", rank, 1)
    dilations = spatial(node, "dilations", rank, 1)
    if any(n != 1 for n in dilations):
        raise InputError(
            f"{node.label} averages windows with gaps (dilations {dilations}), which are not read: export it without"
        )
    x, pads = padding(node, x, kernel, strides, dilations, bool(node.get("ceil_mode", 0)), pooling=True)
    return _MEAN[rank](x, kernel, strides, pads, bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0)))


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node, x: Tensor) -> Tensor:
    """`adaptive_avg_pool` or `adaptive_max_pool` to one position."""
    rank, kind = _rank(node, x), "avg" if node.op == "GlobalAveragePool" else "max"
    function: Any = getattr(functional, f"adaptive_{kind}_pool{rank}d")
    return function(x, (1,) * rank)


def _rnn(node: Node) -> Any:
    names = {name.lower() for name in node.get("activations", ("tanh",))}
    if names not in ({"tanh"}, {"relu"}):
        raise InputError(f"{node.label}: activations {', '.join(sorted(names))[:60]} are not read: Tanh or Relu alone are")
    return torch.rnn_relu if names == {"relu"} else torch.rnn_tanh


@operator("LSTM", "GRU", "RNN")
def recurrent(
    node: Node,
    x: Tensor,
    weight: Tensor,
    hidden_weight: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> Any:
    """One `lstm`, `gru` or `rnn_tanh` layer of one or two directions, x [time, batch, features]."""
    if node.get("layout", 0) or peepholes is not None or x.dim() != 3:
        raise InputError(f"{node.label}: batch-first layout and peepholes are not read")
    directions, size = hidden_weight.shape[0], hidden_weight.shape[-1]
    state = x.new_empty(directions, x.shape[1], size) if hidden is None else hidden
    parameters = []
    for i in range(min(directions, 2)):
        parameters += [weight[i], hidden_weight[i], *(bias[i].chunk(2) if bias is not None else ())]
    options = (bias is not None, 1, 0.0, False, directions == 2, False)
    if node.op == "LSTM":
        out, h, c = torch.lstm(x, (state, state if cell is None else cell), parameters, *options)
    else:
        function: Any = torch.gru if node.op == "GRU" else _rnn(node)
        (out, h), c = function(x, state, parameters, *options), None
    return out.unflatten(-1, (directions, size)).transpose(1, 2), h, c
