"""What is known of each kind of operator: its group, its FLOP and the bytes that it must move.

To add a kind, add its name to one of the tables below or write one function under `@kind`. Formulas take a
Layer and return whole numbers; those for matrix-like kinds equal `torch.utils.flop_counter` exactly, and
those for normalisation follow `fvcore.nn.jit_handles` (4 or 5 FLOP per element, 2 for a folded batch norm).
"""

# ruff: noqa: SIM905 -- long tables of names read better as text

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import log2, prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .layer import Layer, Operand

Count = Callable[["Layer"], int]


@dataclass(frozen=True)
class Kind:
    """A kind's group (kinds of one group cost alike) and its formulas; None stands for the ideal default."""

    group: str
    flop: Count
    read_bytes: Count | None = None
    write_bytes: Count | None = None


KINDS: dict[str, Kind] = {}
"""Every kind with a formula of its own."""
INDEX_PUTS = ("index_put", "_index_put_impl", "_unsafe_index_put")
INDEXED_AXES = "indexed_axes"
"""An argument of theirs that no operator has: which axes are indexed, where these are not the first."""
PLACED = (*INDEX_PUTS, "scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill", "index_reduce", "put")
"""Kinds that write to places of their first operand."""
COPIED = "copied"
"""An argument of theirs that no operator has: whether the first operand is copied before, as everywhere but in place."""
MOMENTS_APART = "moments_apart"
"""An argument of layer norms that no operator has: whether moments took a kernel of their own, as before PyTorch 1.11."""


def group_of_kind(name: str) -> str:
    """Return the group of kinds that cost alike: conv, matmul, attention, norm, …; "other" for an unknown kind."""
    return KINDS[name].group if name in KINDS else "other"


def kind(group: str, *names: str, read: Count | None = None, write: Count | None = None) -> Callable[[Count], Count]:
    """Register the decorated FLOP formula for the kinds `names` of `group`."""

    def register(flop: Count) -> Count:
        KINDS.update((name, Kind(group, flop, read, write)) for name in names)
        return flop

    return register


def _output_elements(layer: Layer) -> int:
    return layer.outputs[0].elements if layer.outputs else 0


def _input_elements(layer: Layer) -> int:
    return layer.inputs[0].elements if layer.inputs else 0


def _output_bytes(layer: Layer) -> int:
    return sum(x.size_bytes for x in layer.outputs)


def _broadcast_elements(operands: Sequence[Operand]) -> int:
    """Elements of what operands are broadcast to."""
    return prod(0 if 0 in sizes else max(sizes) for sizes in zip_longest(*(x.shape[::-1] for x in operands), fillvalue=1))


def _all_but_first_bytes(layer: Layer) -> int:
    """An in-place operator that overwrites its target does not read it."""
    return sum(x.size_bytes for x in layer.inputs[1:])


def _gathered_bytes(layer: Layer) -> int:
    """A gather reads its indices and as many elements as it returns, not the whole table."""
    return _output_bytes(layer) + _all_but_first_bytes(layer)


def _placed_elements(layer: Layer) -> int | None:
    """Elements of the target that are written to; None where only values tell how many."""
    if layer.kind in INDEX_PUTS:
        return _put_elements(layer)
    target, index = layer.inputs[0], layer.operand("index")
    if index is None:
        return None
    if layer.kind == "put" or layer.kind.startswith("scatter"):
        return index.elements
    axis = layer.argument("dim", 0)
    return index.elements * target.elements // max(1, target.shape[axis] if target.shape else 1)


def _put_elements(layer: Layer) -> int | None:
    """Elements of the target that indices choose; None for a mask of which the values do not tell how many it chooses."""
    target, values, indices = layer.inputs[0], layer.inputs[-1], layer.inputs[1:-1]
    axes = layer.argument(INDEXED_AXES, tuple(range(len(indices))))
    if not any(x.dtype in ("bool", "uint8") for x in indices):
        return _broadcast_elements(indices) * prod(n for axis, n in enumerate(target.shape) if axis not in axes)
    first, masked = axes[0], len(indices[0].shape)  # a mask takes as many axes as it has, and the values one for them
    told = len(indices) == 1 and len(values.shape) == len(target.shape) - masked + 1 and values.shape[first] != 1
    return values.shape[first] * prod(target.shape[:first] + target.shape[first + masked :]) if told else None


def _placed_bytes(layer: Layer) -> int:
    """Of all elements of the target, those that are chosen, which may be all; one that is chosen again is there already."""
    chosen, target = _placed_elements(layer), layer.inputs[0]
    return target.bytes_of(target.elements if chosen is None else min(chosen, target.elements))


def _placed_write_bytes(layer: Layer) -> int:
    """What is written to, after all of the target where it is copied."""
    return _placed_bytes(layer) + layer.argument(COPIED, False) * layer.inputs[0].size_bytes


def _is_added(layer: Layer) -> bool:
    """Whether values are added to what stands where they are placed, or joined with it by another operation."""
    return bool(layer.argument("accumulate", False) or layer.argument("reduce")) or layer.kind.endswith(("_add", "_reduce"))


def _placed_read_bytes(layer: Layer) -> int:
    """Values and indices; where values are added, and where a mask may leave elements as they are, these; what is copied."""
    kept = _is_added(layer) or _placed_elements(layer) is None
    return _all_but_first_bytes(layer) + kept * _placed_bytes(layer) + layer.argument(COPIED, False) * layer.inputs[0].size_bytes


def _rows_bytes(layer: Layer) -> int:
    """As many rows of the table as there are indices."""
    weight, indices = layer.inputs[:2]
    return weight.bytes_of(indices.elements * weight.shape[-1])


def _looked_up_bytes(layer: Layer) -> int:
    """A row of the table for each index, and what says which they are, how they weigh and what turns them back."""
    return _rows_bytes(layer) + _all_but_first_bytes(layer)


# --- matrix-like kinds: these equal torch.utils.flop_counter


def _convolved(shape: Sequence[int], weight: Operand) -> int:
    """2 · batch · positions · weights; a complex one is made of three real ones (aten/src/ATen/native/Convolution.cpp)."""
    axes = len(weight.shape) - 2
    positions = prod(shape[: -axes - 1]) * prod(shape[-axes:])
    return 2 * positions * weight.elements * (3 if weight.dtype.startswith("complex") else 1)


@kind("conv", "conv1d", "conv2d", "conv3d", "torchvision::deform_conv2d")
def conv(layer: Layer) -> int:
    """2 · batch · output positions · weights (flop_counter.conv_flop_count)."""
    return _convolved(layer.outputs[0].shape, layer.inputs[1])


@kind("conv", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(layer: Layer) -> int:
    """2 · batch · input positions · weights (flop_counter.conv_flop_count, transposed)."""
    return _convolved(layer.inputs[0].shape, layer.inputs[1])


@kind(
    "matmul", "linear", "matmul", "mm", "bmm", "mv", "dot", "vdot", "_scaled_mm", "_int_mm",
    "_weight_int8pack_mm", "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu",
)  # fmt: skip
def matmul(layer: Layer) -> int:
    """2 · output elements · shared dimension."""
    return 2 * layer.outputs[0].elements * layer.inputs[0].shape[-1]


@kind("matmul", "addmm", "baddbmm", "addmv", "_addmm_activation")
def addmm(layer: Layer) -> int:
    """2 · output elements · shared dimension; the addition rides along free, as in flop_counter."""
    return 2 * layer.outputs[0].elements * layer.inputs[1].shape[-1]


@kind("matmul", "linalg_solve_triangular")
def solve_triangular(layer: Layer) -> int:
    """One multiply-add per entry of the triangle for each column: n² per column (LAPACK's count of trsm)."""
    return layer.outputs[0].elements * layer.inputs[0].shape[-1]


def matrices_met(layer: Layer) -> int:
    """How many matrices [E, K, N] rows [rows, K] meet, each one of them and spread evenly: no more than there are rows."""
    rows, matrices = (x.shape for x in layer.inputs[:2])
    return min(matrices[0], rows[0]) if len(matrices) == 3 and len(rows) == 2 else prod(matrices[:-2])


def _met_bytes(layer: Layer) -> int:
    """Matrices that no row meets are not read: of 64 experts one token reads those that it goes to."""
    weight = layer.inputs[1]
    of_all = prod(weight.shape[:-2])
    return sum(x.size_bytes for x in layer.inputs) - weight.size_bytes + weight.size_bytes * matrices_met(layer) // max(1, of_all)


@kind("matmul", "_grouped_mm", "_scaled_grouped_mm", read=_met_bytes)
def grouped_mm(layer: Layer) -> int:
    """2 · rows · K · N: each row meets the matrix of its own group only; of [E, rows, K] by [K, N] each column does."""
    a, b = layer.inputs[:2]
    groups = a.shape[0] if len(a.shape) == 3 and len(b.shape) == 2 else 1
    return 2 * a.elements * b.shape[-1] // max(1, groups)


@kind("matmul", "addbmm")
def addbmm(layer: Layer) -> int:
    """2 · batches · rows · K · N: the products of all batches are added up."""
    return 2 * layer.inputs[1].elements * layer.inputs[2].shape[-1]


@kind("matmul", "_trilinear")
def trilinear(layer: Layer) -> int:
    """[rows, in1] x [in1, in2] for each output feature, then a multiply-add with the second input (ATen's _trilinear)."""
    first, weight = layer.inputs[:2]
    return 2 * first.shape[0] * (weight.elements + weight.shape[0] * weight.shape[-1])


@kind("matmul", "cdist", "_cdist_forward")
def cdist(layer: Layer) -> int:
    """2 per pair and feature: |a|² + |b|² - 2ab, one product (ATen's _euclidean_dist, Distance.cpp); other norms as `pdist`."""
    as_product = layer.argument("p", 2.0) == 2.0 and layer.argument("compute_mode", 0) != 2
    return (2 if as_product else 3) * _output_elements(layer) * layer.inputs[0].shape[-1]


def _unpacked_bytes(layer: Layer) -> int:
    """A packed weight is no operand: K · N numbers of one byte, or of two (torch.ao.nn.quantized.dynamic.Linear)."""
    number = 2 if layer.kind.endswith("_fp16") else 1
    return layer.inputs[0].size_bytes + number * layer.inputs[0].shape[-1] * layer.outputs[0].shape[-1]


LINEAR_DYNAMIC = tuple(f"quantized::linear_{name}" for name in ("dynamic", "relu_dynamic", "dynamic_fp16", "relu_dynamic_fp16"))
"""Linear layers of `torch.ao.quantization.quantize_dynamic`."""


@kind("matmul", *LINEAR_DYNAMIC, read=_unpacked_bytes)
def linear_dynamic(layer: Layer) -> int:
    """2 · output elements · shared dimension; that inputs are quantised first rides along."""
    return matmul(layer)


def causal_from_last(queries: int, keys: int) -> bool:
    """Whether a mask under which the last query sees all keys hides about as much as `is_causal`, under which the first sees one.

    With queries r times as many as keys, r up to 1, these leave 1 - r/2 and r/2 of the products: up to r = 2/3 the mask is nearer
    to none.
    """
    return 3 * queries > 2 * keys


@kind("attention", "scaled_dot_product_attention")
def attention(layer: Layer) -> int:
    """2 · query positions · key length · (head size + value head size); a causal mask is not deducted."""
    query, key, value = layer.inputs[:3]
    return 2 * prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


@kind("recurrent", "lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(layer: Layer) -> int:
    """2 · time steps · batch · weights: each matrix meets each step once (biases and gates ride along)."""
    x = layer.inputs[0]
    matrices = sum(p.elements for p in layer.inputs if p.name == "params" and len(p.shape) == 2)
    return 2 * prod(x.shape[:-1]) * matrices


# --- solvers and factorisations: leading orders of LAPACK's operation counts (LAPACK Working Note 41, appendix C), by batch


def _cubed(layer: Layer) -> int:
    """n³ for each [n, n] matrix."""
    return layer.inputs[0].elements * layer.inputs[0].shape[-1]


@kind("other", "linalg_cholesky_ex", "cholesky")
def cholesky(layer: Layer) -> int:
    """n³ / 3 (potrf)."""
    return _cubed(layer) // 3


@kind("other", "linalg_lu", "linalg_lu_factor_ex", "_linalg_det", "_linalg_slogdet", "cholesky_inverse")
def lu(layer: Layer) -> int:
    """m n² - n³ / 3 of the longer side m and the shorter n (getrf; potri of a square one as many)."""
    a = layer.inputs[0]
    m, n = max(a.shape[-2:]), min(a.shape[-2:])
    return prod(a.shape[:-2]) * n * n * (3 * m - n) // 3


@kind("other", "linalg_inv_ex")
def inverse(layer: Layer) -> int:
    """2 n³ (getrf and getri)."""
    return 2 * _cubed(layer)


@kind("other", "linalg_lu_solve", "cholesky_solve")
def solve_factored(layer: Layer) -> int:
    """2 n² a column of the result (getrs, potrs)."""
    return 2 * _output_elements(layer) * layer.inputs[0].shape[-1 if layer.kind == "linalg_lu_solve" else -2]


@kind("other", "_linalg_solve_ex")
def solve(layer: Layer) -> int:
    """2 n³ / 3 to factorise and 2 n² a column of the result (getrf and getrs)."""
    return lu(layer) + 2 * _output_elements(layer) * layer.inputs[0].shape[-1]


@kind("other", "linalg_qr")
def qr(layer: Layer) -> int:
    """2 m n² - 2 n³ / 3 of the longer side m and the shorter n (geqrf), as many again for n columns of Q (orgqr)."""
    a, parts = layer.inputs[0], 1 if layer.argument("mode") == "r" else 2
    m, n = max(a.shape[-2:]), min(a.shape[-2:])
    return parts * 2 * prod(a.shape[:-2]) * n * n * (3 * m - n) // 3


# --- normalisation, pooling, resampling, reductions


@kind("norm", "batch_norm")
def batch_norm(layer: Layer) -> int:
    """In eval mode scale and shift only (2 per element); in train mode as any other norm."""
    return norm(layer) if layer.argument("training", False) else 2 * _input_elements(layer)


@kind("norm", "layer_norm", "group_norm", "instance_norm", "native_layer_norm", "native_group_norm", "rms_norm")
@kind("norm", "local_response_norm", "_fused_rms_norm")
def norm(layer: Layer) -> int:
    """4 per element, 5 with an affine part (fvcore.nn.jit_handles.norm_flop_counter)."""
    return _input_elements(layer) * (5 if layer.operand("weight") else 4)


@kind("norm", "_weight_norm_interface", "_weight_norm")
def weight_norm(layer: Layer) -> int:
    """3 per weight: square and add for the norm, multiply by g / norm (Salimans and Kingma 2016, equation 2)."""
    return 3 * _input_elements(layer)


@kind("softmax", "softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax")
def softmax(layer: Layer) -> int:
    """5 per element: maximum, subtraction, exponential, sum, division."""
    return 5 * _input_elements(layer)


def pooled_axes(layer: Layer) -> int:
    """Return over how many dimensions a pooling goes, which its kind says."""
    return int(layer.kind.split("pool")[1][0])


def window_elements(layer: Layer) -> int:
    """Return the elements of a pooling's window; one number stands for an edge along every axis."""
    window = layer.argument("kernel_size", (1,))
    elements: int = prod(window) if len(window) > 1 else window[0] ** pooled_axes(layer)
    return elements


@kind("pooling", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
@kind("pooling", "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d_with_indices")
def pool(layer: Layer) -> int:
    """One per element of each window."""
    return _output_elements(layer) * window_elements(layer)


@kind("pooling", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d")
@kind("pooling", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "_adaptive_avg_pool3d")
@kind("reduction", "mean", "sum", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "any", "all")
@kind("reduction", "argmax", "argmin", "prod", "logsumexp", "linalg_vector_norm", "norm", "cumsum", "cumprod", "aminmax")
@kind("reduction", "median", "nanmedian", "count_nonzero", "logcumsumexp", "cummax", "cummin", "_is_all_true", "_is_any_true")
def reduce(layer: Layer) -> int:
    """One per input element."""
    return _input_elements(layer)


@kind("reduction", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
def loss(layer: Layer) -> int:
    """3 per element: difference, square or absolute value, sum (codecs compare codes with what they quantised)."""
    return 3 * _input_elements(layer)


@kind("sort", "sort", "topk", "argsort", "kthvalue", "multinomial", "unique_dim")
def sort(layer: Layer) -> int:
    """n · log2 n comparisons along the dimension that is sorted, the last by default."""
    x = layer.inputs[0]
    return _comparisons(x.elements, x.shape[layer.argument("dim", -1)] if x.shape else 1)


@kind("sort", "unique_consecutive", "_unique2", "bincount", "histc", "nonzero", "nonzero_static")
def sort_all(layer: Layer) -> int:
    """n · log2 n comparisons of all elements, or along the dimension that is named."""
    x, axis = layer.inputs[0], layer.argument("dim", None)
    return _comparisons(x.elements, x.elements if axis is None or not x.shape else x.shape[axis])


def _comparisons(values: int, among: int) -> int:
    return int(values * max(1.0, log2(max(2, among))))


def _sorted(layer: Layer) -> Operand:
    """What is searched; a number that is looked for is no operand."""
    named = (layer.operand(name) for name in ("sorted_sequence", "boundaries"))
    return next((x for x in named if x is not None), layer.inputs[0])


def _searched_bytes(layer: Layer) -> int:
    """What is looked for, and of what is searched, and of its order, no more than is compared."""
    among, order = _sorted(layer), layer.operand("sorter")
    searched = [x for x in (among, order) if x is not None]
    compared = layer.flop / max(1, among.elements)
    return sum(x.size_bytes for x in layer.inputs if x not in searched) + sum(
        int(x.size_bytes * min(1.0, compared)) for x in searched
    )


@kind("sort", "searchsorted", "bucketize", read=_searched_bytes)
def search(layer: Layer) -> int:
    """log2 n comparisons for each value that is looked for among n sorted ones."""
    return _comparisons(layer.outputs[0].elements, (_sorted(layer).shape or (1,))[-1])


@kind("sort", "torchvision::nms")
def nms(layer: Layer) -> int:
    """19 FLOP for the overlap of each of n · (n - 1) / 2 pairs of boxes (torchvision/csrc/ops/cuda/nms_kernel.cu, devIoU)."""
    boxes = layer.inputs[0].shape[0]
    return 19 * boxes * (boxes - 1) // 2


@kind("resample", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d")
@kind("resample", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def resample(layer: Layer) -> int:
    """A multiply-add for each neighbour that an output element is mixed from: along each axis 2, or 4 of a bicubic one, and as
    many times more where antialiasing widens them by the factor that the image shrinks (ATen/native/cuda/UpSample.cuh)."""
    sizes = layer.inputs[0].shape[2:]
    taps = 4 if "bicubic" in layer.kind else _GRID_TAPS[layer.argument("interpolation_mode", 0)]
    wider = 1
    if layer.kind.endswith("_aa"):
        wider = prod(max(1, -(-n // max(1, out))) for n, out in zip(sizes, layer.outputs[0].shape[2:]))
    return 2 * taps ** len(sizes) * wider * _output_elements(layer)


_GRID_TAPS = {0: 2, 1: 1, 2: 4}
"""Neighbours along an axis of `grid_sample` that is bilinear, nearest or bicubic, by PyTorch's number of the mode."""


@kind("resample", "torchvision::roi_align", "torchvision::ps_roi_align", "torchvision::roi_pool", "torchvision::ps_roi_pool")
def roi(layer: Layer) -> int:
    """Bilinear mixing (8 FLOP) of `sampling_ratio`² points per output element (2² where it is left adaptive)."""
    ratio = layer.argument("sampling_ratio", -1)
    return 8 * (ratio if ratio > 0 else 2) ** 2 * _output_elements(layer)


@kind("fft", "_fft_c2c", "_fft_r2c", "_fft_c2r", "fft_fft", "fft_rfft", "fft_irfft", "fft_fft2", "fft_rfft2", "fft_irfft2")
def fft(layer: Layer) -> int:
    """5 · n · log2 n (Cooley and Tukey's count) for n points of all dimensions transformed; of real numbers as many."""
    x, out = layer.inputs[0], layer.outputs[0]
    dims = layer.argument("dim", (-2, -1) if layer.kind.endswith("2") else (-1,))
    lengths = {dim % len(out.shape): out.shape[dim] for dim in (dims if isinstance(dims, tuple) else (dims,))}
    rows = prod(n for i, n in enumerate(out.shape) if i not in lengths)
    if layer.kind in ("_fft_r2c", "fft_rfft", "fft_rfft2"):  # the last of them comes out halved
        *_, last = lengths
        *_, asked = layer.argument("s") or (layer.argument("n", -1),)
        lengths[last] = asked if asked > 0 else x.shape[last]
    points = prod(lengths.values())
    return int(5 * rows * points * log2(max(2, points)))


@kind("elementwise", "pdist", "_pdist_forward")
def pdist(layer: Layer) -> int:
    """3 per pair and feature: difference, its power, sum."""
    return 3 * _output_elements(layer) * layer.inputs[0].shape[-1]


@kind("elementwise", "cosine_similarity")
def cosine_similarity(layer: Layer) -> int:
    """6 per pair of elements: a multiply-add each for the product and for both norms."""
    return 6 * _broadcast_elements(layer.inputs)


# --- element-wise kinds: one FLOP per output element


@kind(
    "elementwise",
    *"""add sub rsub mul div pow sqrt rsqrt exp exp2 expm1 log log2 log10 log1p neg abs sign reciprocal square
    sin cos tan asin acos atan atan2 sinh cosh asinh acosh atanh erf erfc erfinv floor ceil round trunc frac clamp
    clamp_min clamp_max maximum minimum fmod remainder floor_divide true_divide addcmul addcdiv lerp where masked_fill threshold
    relu relu6 leaky_relu prelu _prelu_kernel rrelu rrelu_with_noise elu selu celu gelu silu mish sigmoid logsigmoid
    log_sigmoid_forward hardsigmoid hardswish hardtanh hardshrink softshrink softplus softsign tanh tanhshrink glu logit
    eq ne lt le gt ge logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_xor bitwise_not
    bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__ isnan isinf isfinite nan_to_num
    dropout native_dropout bernoulli polar complex view_as_complex_copy special_expit sgn angle real_copy heaviside
    xlogy hypot copysign special_xlog1py lgamma digamma polygamma isin softmax_backward addr cross linalg_cross
    cumulative_trapezoid sinc ldexp masked_scatter logaddexp logaddexp2 poisson binomial
    _standard_gamma _sample_dirichlet frexp
    special_entr special_erfcx special_i0e special_i1 special_i1e special_ndtri special_log_ndtr special_zeta""".split(),
)
def elementwise(layer: Layer) -> int:
    """One per output element, whatever the function."""
    return _output_elements(layer)


@kind("elementwise", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell")
def fused_cell(layer: Layer) -> int:
    """Per element of the state 4 or 3 gates: 3 additions and a function each, 5 or 4 to mix (torch.nn.LSTMCell and GRUCell)."""
    return (21 if layer.kind == "_thnn_fused_lstm_cell" else 16) * _output_elements(layer)


@kind("elementwise", "fused")
def fused(layer: Layer) -> int:
    """The FLOP of all operators in it, which `fusion` states; inputs are read once, outputs written once."""
    return max(0, int(layer.argument("flop", _output_elements(layer))))


# --- data movement: no FLOP, only bytes


@kind(
    "copy",
    *"""clone _to_copy cat stack roll flip repeat repeat_interleave constant_pad_nd reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d _pad_circular pixel_shuffle
    pixel_unshuffle channel_shuffle native_channel_shuffle tril triu upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d im2col col2im unfold_copy reshape_copy rot90
    diag_embed diag _unsafe_view to_dense one_hot _nested_tensor_from_mask slice_scatter select_scatter
    diagonal_scatter lift_fresh _pack_padded_sequence max_unpool2d max_unpool3d""".split(),
)
@kind("copy", *"index index_select gather take take_along_dim masked_select _unsafe_index".split(), read=_gathered_bytes)
@kind("copy", *"copy fill zero random normal uniform exponential set_data".split(), read=_all_but_first_bytes)
@kind("embedding", "embedding", read=_looked_up_bytes)
@kind(
    "creation",
    *"""zeros zeros_like ones ones_like full full_like arange linspace logspace eye rand randn randint rand_like
    randn_like randint_like randperm new_zeros new_ones new_full scalar_tensor tril_indices triu_indices
    hann_window hamming_window""".split(),
    read=lambda layer: 0,
)
def move(layer: Layer) -> int:
    """Moving bytes computes nothing."""
    return 0


@kind("copy", *PLACED, read=_placed_read_bytes, write=_placed_write_bytes)
def place(layer: Layer) -> int:
    """One per value that is added to what stands there, or joined with it otherwise; what takes its place computes nothing."""
    if not _is_added(layer):
        return 0
    placed = _placed_elements(layer)
    return layer.inputs[0].elements if placed is None else placed


@kind("resample", "affine_grid_generator")
def affine_grid(layer: Layer) -> int:
    """A point's coordinates and a one times a matrix for each coordinate of the output: 2 · (axes + 1)."""
    return 2 * (layer.outputs[0].shape[-1] + 1) * _output_elements(layer)


@kind("copy", "unfold_backward")
def overlap_add(layer: Layer) -> int:
    """One per element of the frames, which are added where they overlap (the end of an inverse short-time Fourier transform)."""
    return _input_elements(layer)


@kind("embedding", "embedding_renorm", read=_looked_up_bytes, write=_rows_bytes)
def embedding_renorm(layer: Layer) -> int:
    """3 per element of the rows that are asked for: square and add, then scaled to the norm they may have at most."""
    return 3 * layer.inputs[1].elements * layer.inputs[0].shape[-1]


@kind("embedding", "embedding_bag", "_embedding_bag", read=_looked_up_bytes)
def embedding_bag(layer: Layer) -> int:
    """One per element of every row that is pooled, two where rows are weighed."""
    weight, indices = layer.inputs[:2]
    return (2 if layer.operand("per_sample_weights") else 1) * indices.elements * weight.shape[-1]


def _when_active(count: Count) -> Count:
    return lambda layer: count(layer) if layer.argument("active", False) else 0


@kind(
    "elementwise",
    "stochastic_depth",
    read=_when_active(lambda layer: layer.inputs[0].size_bytes),
    write=_when_active(_output_bytes),
)
def stochastic_depth(layer: Layer) -> int:
    """torchvision's train-mode module as one layer: one per element where samples may be dropped, else it returns its input."""
    return elementwise(layer) if layer.argument("active", False) else 0
