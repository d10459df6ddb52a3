"""Operators of ONNX Runtime's own domain, `com.microsoft`, which its optimiser and its exporters of language models write.

What each takes and gives is in onnxruntime's docs/ContribOperators.md. Most that a single kernel runs are one layer: of the
kind that it mostly is, with all that it reads and writes; activations and biases that ride along cost no FLOP here. Sums
after convolutions and the embeddings of BERT stay in parts, and projections apart from their attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from ...errors import InputError
from ...layer import SCALE, Argument, Layer, Operand
from ...trace.call import operand
from ..scopes import record
from .compute import conv, gemm, rms_norm
from .elementwise import control_flow, quantised
from .graph import Node
from .operators import Operator, operator

Tensor = torch.Tensor
Named = tuple[str, Tensor]

PACKED_BITS = {4: "int4", 8: "int8"}
"""Bits of a packed weight that are read, and the dtype that its layer holds it in."""


def contrib(*names: str) -> Callable[[Operator], Operator]:
    """Register the decorated function as the operators `names` of the domain."""
    return operator(*(f"com.microsoft.{name}" for name in names))


def _whole(kind: str, inputs: list[Named], outputs: list[Tensor], arguments: tuple[tuple[str, Argument], ...] = ()) -> None:
    """Record one layer of `kind` that reads all `inputs` and writes all `outputs`."""
    read = tuple(operand(name, x) for name, x in inputs)
    written = tuple(operand("output", x) for x in outputs)
    record(Layer(kind, read, written, arguments), [x for _, x in inputs], outputs)


def _made(like: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """A result of the dtype of `like`, and of its shape: without values, even where those of all that is read are known."""
    return torch.empty(like.shape if shape is None else tuple(shape), dtype=like.dtype, device="meta")


def _given(*inputs: tuple[str, Tensor | None]) -> list[Named]:
    return [(name, x) for name, x in inputs if x is not None]


# --- weights that are packed


def _bits(node: Node) -> int:
    bits = node.get("bits", 4)
    if bits not in PACKED_BITS:
        raise InputError(f"{node.label} holds weights of {bits} bits; of {' and '.join(map(str, PACKED_BITS))} are read")
    return int(bits)


@contrib("MatMulNBits")
def matmul_n_bits(
    node: Node, a: Tensor, packed: Tensor, scales: Tensor, zeros: Any = None, order: Any = None, bias: Tensor | None = None
) -> Tensor:
    """`linear` with its weight [n, k] held in `bits`, and a scale (and a zero point) for each block of a row."""
    n, k, bits = node.get("N", 0), node.get("K", 0), _bits(node)
    if min(n, k) < 1 or a.shape[-1:] != (k,) or packed.numel() * packed.element_size() * 8 < n * k * bits:
        raise InputError(f"{node.label}: a weight of {n} x {k} fits neither {list(a.shape)} nor {list(packed.shape)}")
    out = _made(a, (*a.shape[:-1], n))
    beside = _given(("bias", bias), (SCALE, scales), (SCALE, zeros), (SCALE, order))
    read = (operand("input", a), Operand("weight", (n, k), PACKED_BITS[bits]), *(operand(*x) for x in beside))
    record(Layer("linear", read, (operand("output", out),)), [a, packed, *(x for _, x in beside)], [out])
    return out


@contrib("GatherBlockQuantized")
def gather_block_quantized(node: Node, data: Tensor, indices: Tensor, scales: Tensor, zeros: Any = None) -> Tensor:
    """`embedding` with rows of numbers of `bits`; where the table is of bytes they are packed along its last dimension."""
    bits = _bits(node)
    if node.get("gather_axis", 0) != 0 or data.dim() != 2 or data.dtype != torch.uint8:
        raise InputError(f"{node.label}: rows of a table of bytes are read, not those of {data.dtype} {list(data.shape)}")
    shape = (data.shape[0], data.shape[1] * 8 // bits)
    out = _made(scales, (*indices.shape, shape[1]))
    beside = _given((SCALE, scales), (SCALE, zeros))
    rows = tuple(Operand(name, (*indices.shape, *x.shape[1:]), operand(name, x).dtype) for name, x in beside)
    read = (Operand("weight", shape, PACKED_BITS[bits]), operand("indices", indices), *rows)
    record(Layer("embedding", read, (operand("output", out),)), [data, indices, *(x for _, x in beside)], [out])
    return out


# --- attention


def _heads(x: Tensor, heads: int) -> Tensor:
    """[b, n, h·d] as [b, h, n, d]; what has its heads apart already stays."""
    return x if x.dim() == 4 else x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(node: Node, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, past: Any, causal: bool) -> Any:
    """`scaled_dot_product_attention` of heads apart, keys and values of before in front; output [b, n, h·d] and what is kept."""
    if past is not None:
        key, value = (torch.cat((before, x), 2) for before, x in zip(past, (key, value)))
    if query.shape[1] % max(1, key.shape[1]):
        raise InputError(f"{node.label}: {query.shape[1]} heads do not share {key.shape[1]} of keys and values evenly")
    out = functional.scaled_dot_product_attention(
        query, key, value, mask,
        is_causal=causal and mask is None and query.shape[2] == key.shape[2], enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out.transpose(1, 2).flatten(2), key, value


@contrib("GroupQueryAttention")
def group_query_attention(
    node: Node, query: Tensor, key: Any, value: Any, past_key: Any = None, past_value: Any = None, lengths: Any = None,
    total: Any = None, cos: Any = None, sin: Any = None, positions: Any = None, mask: Any = None, *_: Any,
) -> Any:  # fmt: skip
    """Causal attention of heads that share keys, both turned first where `do_rotary` says so; sliding windows count in full."""
    heads, shared = node.get("num_heads", 1), node.get("kv_num_heads", 1)
    if key is None:
        size = query.shape[-1] // (heads + 2 * shared)
        query, key, value = query.split([heads * size, shared * size, shared * size], -1)
    query, key, value = (_heads(x, n) for x, n in ((query, heads), (key, shared), (value, shared)))
    if node.get("do_rotary", 0) and cos is not None and sin is not None:
        query, key = _turned(query, cos, sin), _turned(key, cos, sin)
    past = None if past_key is None or past_value is None else (past_key, past_value)
    return _attend(node, query, key, value, mask, past, causal=True)


@contrib("MultiHeadAttention")
def multi_head_attention(
    node: Node, query: Tensor, key: Any = None, value: Any = None, bias: Any = None, padding: Any = None, mask: Any = None,
    past_key: Any = None, past_value: Any = None, *_: Any,
) -> Any:  # fmt: skip
    """Attention of projected queries, keys and values, apart or packed [b, n, h, 3, d]; masks of padding cost nothing."""
    heads = node.get("num_heads", 1)
    if key is None:
        query, key, value = (x.transpose(1, 2) for x in query.unbind(3))
    elif value is None:
        key, value = (x.transpose(1, 2) for x in key.unbind(3))
    query, key, value = (_heads(x, heads) for x in (query, key, value))
    if bias is not None:  # one kernel for all three, which lays heads apart as well
        before = (query, key, value)
        query, key, value = (_made(x) for x in before)
        _whole("add", [*(("self", x) for x in before), ("other", bias)], [query, key, value])
    past = None if past_key is None or past_value is None else (past_key, past_value)
    return _attend(node, query, key, value, mask, past, bool(node.get("unidirectional", 0)))


@contrib("Attention")
def projected_attention(
    node: Node, x: Tensor, weights: Tensor, bias: Any = None, padding: Any = None, past: Any = None, mask: Any = None, *_: Any
) -> Any:
    """One `linear` for queries, keys and values (weights [in, q + k + v]), then attention; masks of padding cost nothing."""
    heads, width = node.get("num_heads", 1), weights.shape[-1]
    sizes = list(node.get("qkv_hidden_sizes", ()) or (width // 3,) * 3)
    projected = functional.linear(x, weights.view(weights.shape[::-1]), bias)  # the same memory, as a layer holds it
    query, key, value = (_heads(part, heads) for part in projected.split(sizes, -1))
    out, key, value = _attend(
        node, query, key, value, mask, None if past is None else past.unbind(0), bool(node.get("unidirectional", 0))
    )
    wanted = len(node.outputs) > 1 and node.outputs[1]
    return (out, torch.stack((key, value))) if wanted else out


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in one kernel: two products and a sum an element, a row of cosines and sines a position."""
    out = _made(x)
    rows = [c[: x.shape[-2]] for c in (cos, sin)]
    _whole("addcmul", [("self", x), ("tensor1", rows[0]), ("tensor2", rows[1])], [out])
    return out


@contrib("RotaryEmbedding")
def rotary_embedding(_: Node, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys, [b, n, h·d] or [b, h, n, d], in one kernel."""
    return _turned(x, cos, sin)


# --- norms


contrib("SimplifiedLayerNormalization")(rms_norm)


@contrib("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def skip_norm(node: Node, x: Tensor, skip: Tensor, weight: Tensor, *others: Any) -> Any:
    """`layer_norm` or `rms_norm` of a sum in one kernel, which also writes the sum where somebody reads it."""
    simplified = node.op.startswith("SkipSimplified")
    beta, bias = (None, *others, None)[:2] if simplified else (*others, None, None)[:2]
    out = _made(x)
    total = _made(x) if len(node.outputs) > 3 and node.outputs[3] else None
    inputs = _given(("input", x), ("weight", weight), ("bias", beta), ("skip", skip), ("skip", bias))
    written = [out] if total is None else [out, total]
    _whole("rms_norm" if simplified else "layer_norm", inputs, written, (("normalized_shape", tuple(x.shape[-1:])),))
    return out, None, None, total


@contrib("EmbedLayerNormalization")
def embed_layer_norm(
    node: Node, ids: Tensor, segments: Any, words: Tensor, places: Tensor, kinds: Any, weight: Tensor, beta: Tensor, *_: Any
) -> Any:
    """Rows of two or three tables, their sum and `layer_norm`."""
    total = functional.embedding(ids, words) + places[: ids.shape[-1]]
    if segments is not None and kinds is not None:
        total = total + functional.embedding(segments, kinds)
    out = functional.layer_norm(total, total.shape[-1:], weight, beta)
    return out, ids.new_empty(ids.shape[:1], dtype=torch.int32), total


@contrib("GroupNorm", "SkipGroupNorm")
def group_norm(node: Node, x: Tensor, weight: Tensor, beta: Tensor, *added: Any) -> Any:
    """`group_norm`, of a sum if there is something to skip; channels lie last, and SiLU rides along."""
    last = bool(node.get("channels_last", 1))
    image = x.movedim(-1, 1) if last else x
    out = _made(x)
    total = _made(x) if len(node.outputs) > 1 and node.outputs[1] else None
    inputs = _given(("input", image), ("weight", weight), ("bias", beta), *(("skip", y) for y in added))
    written = [y.movedim(-1, 1) if last else y for y in (out, total) if y is not None]
    _whole("group_norm", inputs, written, (("num_groups", node.get("groups", 1)),))
    return out if total is None else (out, total)


# --- element-wise, and products with what rides along


@contrib("Gelu", "FastGelu", "BiasGelu", "QuickGelu")
def gelu(node: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """`gelu` in one kernel with the bias before it."""
    out = _made(x)
    approximate = (("approximate", "tanh"),) if node.op == "FastGelu" else ()
    _whole("gelu", _given(("self", x), ("bias", bias)), [out], approximate)
    return out


@contrib("BiasSplitGelu")
def bias_split_gelu(_: Node, x: Tensor, bias: Tensor) -> Tensor:
    """The first half of the channels by `gelu` of the second, in one kernel."""
    out = _made(x, (*x.shape[:-1], x.shape[-1] // 2))
    _whole("gelu", [("self", x), ("bias", bias)], [out])
    return out


@contrib("BiasAdd")
def bias_add(_: Node, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    """Two additions in one kernel."""
    out = _made(x)
    _whole("add", [("self", x), ("other", bias), ("other", skip)], [out])
    return out


@contrib("FusedMatMul", "TransposeMatMul", "FusedMatMulActivation")
def fused_matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """`linear` by a matrix, else `matmul`, of operands that may lie transposed; the factor and the activation ride along."""
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise InputError(f"{node.label} moves batches within a product, which is not read: export the network unoptimised")
    if b.dim() == 2 and a.dim() > 1 and b.is_contiguous() and not node.get("transA", 0):
        return functional.linear(a, b if node.get("transB", 0) else b.view(b.shape[::-1]))
    a, b = (x.transpose(-1, -2) if node.get(name, 0) and x.dim() > 1 else x for x, name in ((a, "transA"), (b, "transB")))
    return torch.matmul(a, b)


contrib("FusedGemm")(gemm)  # the activation rides along


@contrib("FusedConv")
def fused_conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None) -> Tensor:
    """As Conv; the activation rides along, and a sum is a layer of its own."""
    out = conv(node, x, weight, bias)
    return out if added is None else out + added


@contrib("NhwcConv", "NhwcFusedConv")
def nhwc_conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, added: Tensor | None = None) -> Tensor:
    """As FusedConv, channels last; the weight is [out, in / groups, height, width], or has its channels last as well."""
    if weight.shape[1] * node.get("group", 1) != x.shape[-1]:  # kernels of CUDA take channels last here too
        weight = weight.movedim(-1, 1)
    return fused_conv(node, x.movedim(-1, 1), weight, bias, None if added is None else added.movedim(-1, 1)).movedim(1, -1)


contrib("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch")(control_flow)
contrib(
    "QuantizeLinear", "DequantizeLinear", "DequantizeBFP", "DequantizeWithOrder", "DynamicQuantizeLSTM",
    "DynamicQuantizeMatMul", "GemmFloat8", "MatMulBlockQuantizedFp4Weight", "MatMulBlockQuantizedFp8Weight", "MatMulBnb4",
    "MatMulFpQ4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBitsMlp", "MatMulNBitsQkv", "MulInteger", "QAttention",
    "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv",
    "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax",
    "QLinearWhere", "QMoE", "QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization", "QOrderedLongformerAttention",
    "QOrderedMatMul", "QuantizeBFP", "QuantizeWithOrder", "ReduceSumInteger",
)(quantised)  # fmt: skip
