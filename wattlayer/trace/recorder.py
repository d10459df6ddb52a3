"""The engine of `trace`: a dispatch mode that sees operators whole, and the module path each one runs under.

Under `torch.inference_mode()` the dispatcher hands composite operators (`conv2d`, `linear`, `lstm`,
`scaled_dot_product_attention`) over undecomposed. Those that have a formula in `kinds` are recorded so; other
composites are decomposed into the operators that they really run (`einsum` into `bmm`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import InputError, first_line
from ..kinds import KINDS
from ..layer import Layer, Operand, format_shape
from .assumptions import AUTOCAST, EVEN_CHOICES, SPARSE, UNLIKE_DTYPES, unknown_arithmetic
from .call import ALLOCATIONS, has_unlike_dtypes, make_layer, operand, operands_of, reads_one_twice, schema_of, written_by
from .composite import COMPOSITES, ENCODER_LAYER
from .constants import Constants, KnownIndices, is_alias, tensors_in
from .flow import Flow, Memory
from .hooks import attention_as_on_devices, causal_masks, module_paths, noted_autocast, within_autocast
from .meta import inputs_to_meta, tensor_to_meta, to_meta
from .results import STAND_INS, Again, again_of, as_fused, needs_values

DTYPES = ("float32", "float16", "bfloat16")
"""What `dtype` may convert a network to."""


def record(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dtype: str | None, train_mode: bool, cached: bool = False
) -> tuple[list[tuple[str, Layer]], tuple[Operand, ...], tuple[str, ...], Flow]:
    """Run `module` on the meta device; return its (path, layer) calls, tensor inputs, `Trace.assumptions` and what feeds what.

    `cached` takes what equal operator calls of earlier traces came to, instead of inferring their shapes anew.
    """
    target = _torch_dtype(dtype)
    module = to_meta(module, target, train_mode)
    args, kwargs = inputs_to_meta((args, kwargs), target)
    # all but causal masks, which are sizes alone
    tensors = list({id(x): x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.is_meta}.values())
    inputs = tuple(operand("input", x) for x in tensors)  # before the forward, which may change them in place
    with attention_as_on_devices(module), torch.inference_mode():  # holds TORCH_STATE: calls are shared by default dtype
        recorder = Recorder(_shared_calls() if cached else None)
        recorder.memory.vary(tensors)
        with module_paths(module, recorder.path):
            try:
                with recorder, KnownIndices(), causal_masks(), noted_autocast(recorder.note_autocast):
                    result = module(*args, **kwargs)
            except (Exception, SystemExit) as error:  # whatever the user's forward raises is told in one line
                raise InputError(_reason(module, inputs, recorder.path, error)) from error
    if _is_real(tree_leaves(result)) and not recorder.calls:
        raise InputError(_reason(module, inputs, recorder.path, RuntimeError(_HOST_RESULT)))
    returned = (x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.layout == torch.strided)
    even = recorder._constants.assumed or any(layer.kind == "_grouped_mm" for _, layer in recorder.calls)
    unlike = not recorder.autocast and any(has_unlike_dtypes(layer) for _, layer in recorder.calls)
    sparse = any(x.layout in SPARSE_LAYOUTS for x in (*tensors, *module.parameters(), *module.buffers()))
    assumed = (EVEN_CHOICES,) * even + (AUTOCAST,) * recorder.autocast + (UNLIKE_DTYPES,) * unlike + (SPARSE,) * sparse
    assumed += unknown_arithmetic(layer for _, layer in recorder.calls)
    return recorder.calls, inputs, assumed, recorder.memory.flow(returned)


Seen = dict[Any, tuple[Layer | None, Again | None]]
"""What operator calls came to, by operator and by the frozen values of all that a layer and its result's shape follow from."""
MOST_SHARED_CALLS = 1 << 17
"""Calls remembered over traces, one to two kB each; beyond them all are forgotten."""
_SHARED: dict[torch.dtype, Seen] = {}
"""Calls of all cached traces of this process, by torch's default dtype, which operators without a dtype follow."""


def forget_calls() -> None:
    """Let go of what operator calls of cached traces came to."""
    _SHARED.clear()


def _shared_calls() -> Seen:
    seen = _SHARED.setdefault(torch.get_default_dtype(), {})
    if len(seen) > MOST_SHARED_CALLS:
        seen.clear()
    return seen


class Recorder(TorchDispatchMode):
    """Collect (path, layer) for every operator that computes or moves data."""

    def __init__(self, seen: Seen | None = None) -> None:
        super().__init__()
        self.calls: list[tuple[str, Layer]] = []
        self.path: list[str] = [""]
        self.memory = Memory()
        self.autocast = within_autocast()
        """Whether `torch.autocast` is on around the forward or is asked for by it."""
        self._constants = Constants()
        self._seen: Seen = {} if seen is None else seen

    def note_autocast(self) -> None:
        """Note that `torch.autocast` was asked for."""
        self.autocast = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind, names, _ = schema_of(func)
        if kind in COMPOSITES and not written_by(func)[0]:
            with self:
                parts = {"within": self._within} if kind == ENCODER_LAYER else {}
                whole = COMPOSITES[kind](**dict(zip(names, args)), **kwargs, **parts)
            if whole is not NotImplemented:
                # statistics and the like, which autograd and functorch read
                left = isinstance(whole, tuple) and ... in [x for x in whole if not isinstance(x, torch.Tensor)]
                return (whole[0], *self._run(func, args, kwargs)[1:]) if left else whole
        product = kind in ("addmm", "mm", "matmul") and func._overloadname == "default"  # others write to `out` or in `out_dtype`
        if product and (linear := self._of_linear(dict(zip(names, args)) | kwargs)):
            with self:
                return functional.linear(*linear)
        if _decomposes(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        squares = reads_one_twice(func, args)
        key = (func, _signature(args), _signature(tuple(kwargs.items())), squares)
        layer, again = self._seen.get(key, (None, None))
        # a call seen before gives fresh tensors of the same shapes: cheaper than to infer the shapes anew
        asked = self._constants.asked
        result = self.compute(func, args, kwargs, again)
        if key not in self._seen:
            layer = make_layer(func, args, kwargs, result)
            if layer is None and _runs_weights(func, args, result):
                raise InputError(_ON_HOST)
            # else the result's shape may follow from values, which the key leaves out
            if asked == self._constants.asked and all(x.is_meta for x in tensors_in((args, kwargs))):
                self._seen[key] = layer, again_of(func, args, kwargs, result)
        if layer is not None:
            self.calls.append((self.path[-1], layer))
            if squares or written_by(func)[1]:  # few operators write to their arguments
                self.memory.add(*([x for _, x in part] for part in operands_of(func, args, kwargs, result)))
            else:
                self.memory.add(tensors_in((args, kwargs)), tensors_in(result))
        return result

    @contextmanager
    def _within(self, name: str) -> Iterator[None]:
        """Take down what is called as done by a submodule of the one that runs."""
        self.path.append(".".join(x for x in (self.path[-1], name) if x))
        try:
            yield
        finally:
            self.path.pop()

    def _of_linear(self, given: dict[str, Any]) -> tuple[torch.Tensor, ...] | None:
        """Return input, weight and bias where a product is what `linear` decomposes to: rows by a weight that lies transposed."""
        rows, bias = (given["mat1"], given["self"]) if "mat1" in given else (given["self"], None)
        weight = given["other" if "other" in given else "mat2"]
        matrix = weight.is_meta and weight.dim() == 2 and weight.layout == torch.strided
        transposed = matrix and weight.stride() == (1, weight.shape[0])
        if not transposed or rows.dim() < 2 or not self.memory.is_weight(weight):
            return None
        if bias is None:
            return rows, weight.t()
        plain = bias.shape == weight.shape[1:] and given.get("beta", 1) == given.get("alpha", 1) == 1
        return (rows, weight.t(), bias) if plain else None

    def take(self, layer: Layer, read: Iterable[torch.Tensor], written: Iterable[torch.Tensor]) -> None:
        """Take down a call that was not dispatched, with the tensors of its layer's inputs and outputs."""
        self.calls.append((self.path[-1], layer))
        self.memory.add(read, written)

    def compute(self, func: Any, args: Any, kwargs: Any, again: Again | None = None) -> Any:
        """Return an operator's result on meta tensors, by `again` where that makes it, and follow what is known of it."""
        if again is None:
            _check_axes(func, args, kwargs)
            result = as_fused(func, args, self._run(func, args, kwargs))
        else:
            result = again(args)
        self._constants.follow(func, args, kwargs, result)
        return result

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on meta tensors; one that needs values gets them where no weight is involved."""
        kind = schema_of(func)[0]
        packs = kind in _QUANTISED_CELLS or (kind.startswith("quantized::") and kind not in KINDS)
        if packs and next(tensors_in(args), None) is not None:  # packed weights are no tensors: products of unknown size
            raise NotImplementedError(f"layers in int8 ({kind}) are not read, price the network before it was quantised")
        try:
            result = func(*args, **kwargs)
            # some kernels of processors never look where all of their operands lie
            missed = not func._schema.is_mutable and _is_real(result) and _is_mixed(args, kwargs)
            return self._run(func, *_on_meta(args, kwargs)) if missed else result
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            stand_in = STAND_INS.get(kind)
            result = stand_in(func, *args, **kwargs) if stand_in else None
            if result is not None:
                return result
            if any(x.layout in SPARSE_LAYOUTS for x in tensors_in((args, kwargs))):
                return self._run(func, *tree_map(_dense, (args, kwargs)))
            if all(x.is_meta for x in tensors_in((args, kwargs))):
                if not needs_values(error):
                    raise
                return self._constants.compute(func, args, kwargs)
            return self._run(func, *_on_meta(args, kwargs))  # small, freshly made real tensors among meta ones


def _on_meta(args: Any, kwargs: Any) -> Any:
    return tree_map(lambda x: tensor_to_meta(x) if isinstance(x, torch.Tensor) else x, (args, kwargs))


def _is_real(result: Any) -> bool:
    """Whether a call or a network gave tensors, none of which is a meta tensor."""
    tensors = list(tensors_in(result))
    return bool(tensors) and not any(x.is_meta for x in tensors)


def _is_mixed(args: Any, kwargs: Any) -> bool:
    return len({x.is_meta for x in tensors_in((args, kwargs))}) > 1


_QUANTISED_CELLS = frozenset({"quantized_lstm", "quantized_gru"})


def _runs_weights(func: Any, args: tuple[Any, ...], result: Any) -> bool:
    """Whether a call computes with a real weight for real, as where hooks bring real weights from elsewhere."""
    weights = [x for x in tensors_in(args) if isinstance(x, nn.Parameter) and not x.is_meta]
    if not weights or not _is_real(result) or schema_of(func)[0] in _KEPT_AS_THEY_ARE:
        return False
    return not any(is_alias(x, weight) for x in tensors_in(result) for weight in weights)


_KEPT_AS_THEY_ARE = ALLOCATIONS | {"_to_copy", "clone", "detach"}
_ON_HOST = (
    "it brings real weights and runs on them, unseen: price the network without hooks that do (accelerate's offload), and let"
    " modules hold their parameters"
)


_HOST_RESULT = "what it returns was computed on the host, which is not priced: keep to the device of the input"


def _check_axes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise ValueError for a convolution of sizes for other axes than its images have, which the meta device alone takes."""
    kind, names, _ = schema_of(func)
    if not (found := _CONV.fullmatch(kind)):
        return
    given = {**dict(zip(names, args)), **kwargs}
    axes, window = int(found[1]), given["weight"].shape[2:]
    if len(window) != axes:
        raise ValueError(f"{kind} takes windows of {axes} sizes, not {tuple(window)}")
    for name in ("stride", "padding", "dilation", "output_padding"):
        sizes = given.get(name)
        if isinstance(sizes, list | tuple) and len(sizes) not in (1, axes):
            raise ValueError(f"{kind} takes a {name} of one size or of {axes}, not {tuple(sizes)}")


_CONV = re.compile(r"conv(?:_transpose)?([123])d")

SPARSE_LAYOUTS = frozenset({torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc})


def _dense(x: Any) -> Any:
    """A sparse tensor, of which meta kernels take few, as a dense one of its shape."""
    sparse = isinstance(x, torch.Tensor) and x.layout in SPARSE_LAYOUTS
    return torch.empty(x.shape, dtype=x.dtype, device="meta") if sparse else x


@cache
def _decomposes(func: Any) -> bool:
    """Whether an operator is only a recipe made of others, without a formula of its own."""
    implicit = torch._C.DispatchKey.CompositeImplicitAutograd
    return schema_of(func)[0] not in KINDS and func.has_kernel_for_dispatch_key(implicit)


def _signature(value: Any) -> Any:
    """Return a hashable key that holds everything a layer is made of."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.dtype, value.stride() if value.layout == torch.strided else None, value.is_meta)
    if isinstance(value, list | tuple):
        return tuple(_signature(x) for x in value)
    return (type(value), value)


def _torch_dtype(name: str | None) -> torch.dtype | None:
    if name is not None and name not in DTYPES:
        raise InputError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return getattr(torch, name) if name else None


_CURES = (
    (r"no rule registered for \w+ (\w+)", r"\1, which takes functions, is not traced: call the one that runs in its place"),
    (
        "FlexAttention is only supported on",
        "flex_attention, which compiles a function, is not traced: call scaled_dot_product_attention in its place",
    ),
    (
        "Torch not compiled with CUDA enabled|Found no NVIDIA driver",
        "it asks for a CUDA device: ask for that of the input (device=x.device)",
    ),
    ("batch_sizes should always be on CPU", "give pack_padded_sequence the lengths as a list"),
    (
        r"window must be on the same device .* meta and window on cpu",
        "its window lies on the CPU: make it where the input is, as a GPU needs as well (device=x.device)",
    ),
    (
        r"argument #1 'indices' to have one of the following scalar types: Long, Int; but got torch\.(\w+)",
        r"an embedding takes whole numbers, not \1: give token ids (a factory of a .py file returns (module, inputs))",
    ),
    (
        r"forward\(\) missing (\d+ required positional arguments?: .*)",
        r"its forward misses \1 (a factory of a .py file returns (module, inputs))",
    ),
)
"""What torch says of recorders and of meta tensors, as patterns, and what to tell the user in its place."""


def _reason(module: nn.Module, inputs: tuple[Operand, ...], path: list[str], error: BaseException) -> str:
    """Tell in one line where and why a forward pass failed."""
    given = ", ".join(format_shape(x.shape) or "scalar" for x in inputs) or "no tensor"
    known = ((re.search(pattern, first_line(error, 10_000)), cure) for pattern, cure in _CURES)
    why = next((found.expand(cure) for found, cure in known if found), first_line(error))
    return f"{type(module).__name__} does not run on {given} (at {path[-1] or 'the top level'}): {why}"
