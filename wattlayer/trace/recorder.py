"""The engine of `trace`: a dispatch mode that sees operators whole, and the module path each one runs under.

Under `torch.inference_mode()` the dispatcher hands composite operators (`conv2d`, `linear`, `lstm`,
`scaled_dot_product_attention`) over undecomposed. Those that have a formula in `kinds` are recorded so; other
composites are decomposed into the operators that they really run (`einsum` into `bmm`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from operator import itemgetter
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..errors import InputError, first_line
from ..kinds import COPIED, INDEX_PUTS, INDEXED_AXES, KINDS, PLACED
from ..layer import SCALE, Layer, Operand, format_shape, freeze
from .composite import COMPOSITES, ENCODER_LAYER
from .constants import Constants, KnownIndices, is_alias, tensors_in
from .flow import Flow, Memory
from .meta import NESTED, TORCH_STATE, inputs_to_meta, tensor_to_meta, to_meta

ALLOCATIONS = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted"}
    | {"resize", "set_", "detach", "lift"}
)
"""Operators that move no data although they return a fresh tensor."""


PRODUCTS = frozenset(
    {"linear", "matmul", "mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addbmm", "addmv"}
    | {f"{name}{axes}d" for name in ("conv", "conv_transpose") for axes in (1, 2, 3)}
)
"""Kinds whose operands have one dtype."""


def record(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dtype: str | None, train_mode: bool, cached: bool = False
) -> tuple[list[tuple[str, Layer]], tuple[Operand, ...], tuple[str, ...], Flow]:
    """Run `module` on the meta device; return its (path, layer) calls, tensor inputs, `Trace.assumptions` and what feeds what.

    `cached` takes what equal operator calls of earlier traces came to, instead of inferring their shapes anew.
    """
    target = _torch_dtype(dtype)
    module = to_meta(module, target, train_mode)
    args, kwargs = inputs_to_meta((args, kwargs), target)
    tensors = list({id(x): x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}.values())
    inputs = tuple(operand("input", x) for x in tensors)  # before the forward, which may change them in place
    with _attention_as_on_devices(module), torch.inference_mode():  # holds TORCH_STATE: calls are shared by default dtype
        recorder = Recorder(_shared_calls() if cached else None)
        recorder.memory.vary(tensors)
        with _module_paths(module, recorder.path):
            try:
                with recorder, KnownIndices(), _noted_autocast(recorder):
                    result = module(*args, **kwargs)
            except (Exception, SystemExit) as error:  # whatever the user's forward raises is told in one line
                raise InputError(_reason(module, inputs, recorder.path, error)) from error
    from . import AUTOCAST, EVEN_CHOICES, SPARSE, UNLIKE_DTYPES, unknown_arithmetic

    returned = (x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.layout == torch.strided)
    even = recorder._constants.assumed or any(layer.kind == "_grouped_mm" for _, layer in recorder.calls)
    unlike = not recorder.autocast and any(_has_unlike_dtypes(layer) for _, layer in recorder.calls)
    sparse = any(x.layout in SPARSE_LAYOUTS for x in (*tensors, *module.parameters(), *module.buffers()))
    assumed = (EVEN_CHOICES,) * even + (AUTOCAST,) * recorder.autocast + (UNLIKE_DTYPES,) * unlike + (SPARSE,) * sparse
    assumed += unknown_arithmetic(layer for _, layer in recorder.calls)
    return recorder.calls, inputs, assumed, recorder.memory.flow(returned)


Again = Callable[[Any], Any]
"""Makes the result of a call whose equal was seen before from its arguments."""
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
        self.autocast = any(map(torch.is_autocast_enabled, ("cuda", "cpu")))
        """Whether `torch.autocast` is on around the forward or is asked for by it."""
        self._constants = Constants()
        self._seen: Seen = {} if seen is None else seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind, names, _ = _schema(func)
        if kind in COMPOSITES and not _written(func)[0]:
            with self:
                parts = {"within": self._within} if kind == ENCODER_LAYER else {}
                whole = COMPOSITES[kind](**dict(zip(names, args)), **kwargs, **parts)
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
        squares = _reads_one_twice(func, args)
        key = (func, _signature(args), _signature(tuple(kwargs.items())), squares)
        layer, again = self._seen.get(key, (None, None))
        # a call seen before gives fresh tensors of the same shapes: cheaper than to infer the shapes anew
        asked = self._constants.asked
        result = self.compute(func, args, kwargs, again)
        if key not in self._seen:
            layer = make_layer(func, args, kwargs, result)
            # else the result's shape may follow from values, which the key leaves out
            if asked == self._constants.asked and all(x.is_meta for x in tensors_in((args, kwargs))):
                self._seen[key] = layer, _again(func, args, kwargs, result)
        if layer is not None:
            self.calls.append((self.path[-1], layer))
            if squares or _written(func)[1]:  # few operators write to their arguments
                self.memory.add(*([x for _, x in part] for part in _operands(func, args, kwargs, result)))
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
        transposed = weight.is_meta and weight.dim() == 2 and weight.stride() == (1, weight.shape[0])
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
            result = _as_fused(func, args, self._run(func, args, kwargs))
        else:
            result = again(args)
        self._constants.follow(func, args, kwargs, result)
        return result

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on meta tensors; one that needs values gets them where no weight is involved."""
        if _schema(func)[0] in _QUANTISED_CELLS:  # its packed weights are no tensors: products of unknown size
            raise NotImplementedError("recurrent layers in int8 are not read, price the network before it was quantised")
        try:
            return func(*args, **kwargs)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            stand_in = _STAND_INS.get(_schema(func)[0])
            result = stand_in(func, *args, **kwargs) if stand_in else None
            if result is not None:
                return result
            if all(x.is_meta for x in tensors_in((args, kwargs))):
                if not _needs_values(error):
                    raise
                return self._constants.compute(func, args, kwargs)
            # small, freshly made real tensors among meta ones
            meta = tree_map(lambda x: tensor_to_meta(x) if isinstance(x, torch.Tensor) else x, (args, kwargs))
            return self._run(func, *meta)


_QUANTISED_CELLS = frozenset({"quantized_lstm", "quantized_gru"})


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
    if _schema(func)[0] == "_thnn_fused_gru_cell":
        return torch.empty_like(state), state.new_empty(state.shape[0], 5 * state.shape[1])
    return torch.empty_like(state), torch.empty_like(state), torch.empty_like(of_input)


_STAND_INS: dict[str, Callable[..., Any]] = {
    "_grouped_mm": _grouped_product, "_weight_int4pack_mm": _int4_product,
    "_thnn_fused_lstm_cell": _fused_cell, "_thnn_fused_gru_cell": _fused_cell,
    "quantized::linear_dynamic": _dynamic_product, "quantized::linear_relu_dynamic": _dynamic_product,
}  # fmt: skip
"""What gives an operator's result on meta tensors where it fails to; None where it fails for another reason."""


def _needs_values(error: Exception) -> bool:
    """Whether an operator failed because a meta tensor has no values, not because it was called wrongly."""
    return isinstance(error, NotImplementedError) or "meta" in str(error)


def _again(func: Any, args: Any, kwargs: Any, result: Any) -> Again | None:
    """Return what makes the result of another equal call, given its arguments; None where only the operator can tell."""
    if func._schema.is_mutable:
        kept = bool(args) and result is args[0] and _schema(func)[0] not in ALLOCATIONS
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


def _as_fused(func: Any, args: Any, result: Any) -> Any:
    """Lay out attention's output as fused kernels do, like the query: so no copy is seen where none runs.

    torch/_meta_registrations.py, alloc_with_matching_layout; the meta device itself goes through the unfused path.
    """
    if _schema(func)[0] != "scaled_dot_product_attention" or not result.is_meta:
        return result
    strides = args[0].stride()
    order = sorted(range(result.dim()), key=lambda axis: strides[axis], reverse=True)
    back = sorted(range(result.dim()), key=order.__getitem__)
    return result.new_empty([result.shape[axis] for axis in order]).permute(back)


def _empty(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


Named = list[tuple[str, torch.Tensor]]
"""Tensors of a call, each with the name of its argument; results are all called "output"."""


def make_layer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Layer | None:
    """Describe one call as a Layer; None when it moves nothing (a view, an allocation, a size query)."""
    kind, names, writes = _schema(func)
    given = list(zip(names, args)) + list(kwargs.items())
    inputs, outputs = _operands(func, args, kwargs, result)
    tensors = [x for _, x in outputs]
    # what runs on real tensors is the host's own bookkeeping, not work of the device
    idle = kind in ALLOCATIONS or (kind == "dropout" and not dict(given).get("train"))  # in eval, in place too
    if idle or torch.Tag.inplace_view in func.tags or not any(x.is_meta for x in tensors) or _is_view(inputs, tensors, writes):
        return None
    defaults = _defaults(func)
    if kind in PLACED and (not writes or _written(func)[0] & dict(given).keys()):
        given.append((COPIED, True))
    if kind in INDEX_PUTS:
        given.append((INDEXED_AXES, _indexed_axes(dict(given)["indices"])))
    if kind == "mean" and _is_of_image(dict(given), *inputs[0][1:], tensors[0]):
        kind, given = "adaptive_avg_pool2d", [("output_size", (1, 1))]
        tensors = [tensors[0].reshape(*tensors[0].shape[:2], 1, 1)]
    if kind == "square":  # which ATen computes by pow (aten/src/ATen/native/UnaryOps.cpp)
        kind, given = "pow", [*given, ("exponent", 2)]
    arguments = ((n, v if (kind, n) in _COSTLY else _argument(v)) for n, v in given if not any(True for _ in tensors_in(v)))
    return Layer(
        kind=kind,
        inputs=tuple(operand(name, x) for name, x in inputs),
        outputs=tuple(operand("output", x, layout=False) for x in tensors),
        arguments=tuple(sorted((n, v) for n, v in arguments if v not in (None, defaults.get(n)) and n not in _IRRELEVANT)),
    )


def _is_of_image(given: dict[str, Any], image: torch.Tensor, result: torch.Tensor) -> bool:
    """Whether a mean is over the last two of four dimensions, planes of a batch of images: global pooling, however it is written.

    They are one operator: aten/src/ATen/native/AdaptiveAveragePooling.cpp calls `mean` for a single position.
    """
    axes = [axis % 4 for axis in given.get("dim") or ()]
    return image.dim() == 4 and sorted(axes) == [2, 3] and image.dtype == result.dtype


def _has_unlike_dtypes(layer: Layer) -> bool:
    """Whether a product's factors differ in dtype, which the meta device does not check; scales say that this is meant."""
    return layer.kind in PRODUCTS and len({x.dtype for x in layer.inputs}) > 1 and layer.operand(SCALE) is None


def _indexed_axes(indices: Sequence[torch.Tensor | None]) -> tuple[int, ...] | None:
    """The axes that are indexed, of `x[:, i]` the second; None where they are the first, as a record has no gaps."""
    axes = tuple(axis for axis, index in enumerate(indices) if index is not None)
    return None if axes == tuple(range(len(axes))) else axes


def _check_axes(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise ValueError for a convolution of sizes for other axes than its images have, which the meta device alone takes."""
    kind, names, _ = _schema(func)
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


_IRRELEVANT = frozenset(
    {"device", "layout", "pin_memory", "generator", "out", "dtype", "memory_format", "non_blocking", "cudnn_enabled"}
)
"""Arguments that the operands already show or that change no cost."""
_COSTLY = frozenset({("cdist", "p"), ("_cdist_forward", "p")})
"""Floating-point arguments that do change the cost: only Euclidean distances are products."""


SPARSE_LAYOUTS = frozenset({torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc})


def operand(name: str, tensor: torch.Tensor, layout: bool = True) -> Operand:
    """Describe a tensor; `layout` keeps the strides of a tensor that is not contiguous. Raises InputError for a nested tensor,
    whose sizes are no numbers."""
    if tensor.is_nested:
        raise InputError(NESTED)
    strided = layout and tensor.layout == torch.strided and not tensor.is_contiguous()
    return Operand(name, tuple(tensor.shape), _dtype_name(tensor.dtype), tuple(tensor.stride()) if strided else None)


@cache
def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@cache
def _schema(func: Any) -> tuple[str, tuple[str, ...], bool]:
    """Return an operator's kind (its name without the in-place underscore), argument names and whether it writes to one."""
    namespace, name = func._schema.name.split("::")
    if func._schema.is_mutable:
        name = name.removesuffix("_")
    if func._schema.overload_name in ("other", "out"):  # of two tensors, element by element
        name = {"max": "maximum", "min": "minimum"}.get(name, name)
    kind = name if namespace == "aten" else f"{namespace}::{name}"
    return kind, tuple(a.name for a in func._schema.arguments), func._schema.is_mutable


def _operands(func: Any, args: Any, kwargs: Any, result: Any) -> tuple[Named, Named]:
    """Return the tensors that a call reads, by the names of its arguments, and those that it writes.

    `out=` is not read; a call that returns nothing gives what it writes to.
    """
    outs, written = _written(func)
    named = [*zip(_schema(func)[1], args), *kwargs.items()]
    if _reads_one_twice(func, args):
        del named[1]
    given = [(name, x) for name, value in named for x in tensors_in(value)]
    inputs = [(name, x) for name, x in given if name not in outs]
    if not func._schema.returns:
        return inputs, [(name, x) for name, x in given if name in written]
    return inputs, [("output", x) for x in tree_leaves(result) if isinstance(x, torch.Tensor)]


def _reads_one_twice(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator that works element by element has one tensor as both operands: a square reads each element once."""
    return len(args) > 1 and args[0] is args[1] and isinstance(args[0], torch.Tensor) and _schema(func)[0] in _WITH_NUMBERS


_WITH_NUMBERS = frozenset({"mul", "add", "sub", "div", "eq", "ne", "lt", "le", "gt", "ge"})
"""Operators of two tensors or of one and a number, so that with one of them the layer can be run as well."""


@cache
def _written(func: Any) -> tuple[frozenset[str], frozenset[str]]:
    """Return which arguments an operator only writes its result to (`out`), and all that it writes to."""
    written = [a for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return frozenset(a.name for a in written if a.is_out), frozenset(a.name for a in written)


@cache
def _defaults(func: Any) -> dict[str, Any]:
    """Return the defaults of an operator's arguments: a call that spells one out is the same layer as one that does not."""
    return {a.name: _argument(a.default_value) for a in func._schema.arguments if a.has_default_value()}


@cache
def _decomposes(func: Any) -> bool:
    """Whether an operator is only a recipe made of others, without a formula of its own."""
    implicit = torch._C.DispatchKey.CompositeImplicitAutograd
    return _schema(func)[0] not in KINDS and func.has_kernel_for_dispatch_key(implicit)


def _signature(value: Any) -> Any:
    """Return a hashable key that holds everything a layer is made of."""
    if isinstance(value, torch.Tensor):
        return (value.shape, value.dtype, value.stride() if value.layout == torch.strided else None, value.is_meta)
    if isinstance(value, list | tuple):
        return tuple(_signature(x) for x in value)
    return (type(value), value)


def _argument(value: Any) -> Any:
    """Return what an argument adds to the record: floats (eps, p, scale) change values, never costs, and are left out."""
    if isinstance(value, torch.dtype | torch.device | torch.memory_format | torch.layout):
        return str(value).removeprefix("torch.")
    if isinstance(value, list | tuple):
        return tuple(_argument(x) for x in value)
    return freeze(value) if isinstance(value, bool | int | str) else None


def _is_view(inputs: list[tuple[str, torch.Tensor]], outputs: list[torch.Tensor], writes: bool) -> bool:
    """An operator that writes nothing and returns only parts of its inputs moves no bytes."""
    return not writes and all(any(is_alias(out, x) for _, x in inputs) for out in outputs)


def _torch_dtype(name: str | None) -> torch.dtype | None:
    from . import DTYPES

    if name is not None and name not in DTYPES:
        raise InputError(f"dtype {name!r} is not one of {', '.join(DTYPES)}")
    return getattr(torch, name) if name else None


@contextmanager
def _module_paths(module: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the path of the running module on top of `stack`; one that several others share is named by the one that calls it."""
    names = {id(m): name for name, m in module.named_modules()}
    below: dict[int, dict[int, str]] = {}
    running: list[nn.Module] = []

    def path(m: nn.Module) -> str:
        caller = running[-1] if running else module
        if id(caller) not in below:
            below[id(caller)] = {id(x): name for name, x in caller.named_modules()}
        name = below[id(caller)].get(id(m))
        return names[id(m)] if name is None else ".".join(x for x in (stack[-1], name) if x)

    def enter(m: nn.Module, _: Any) -> None:
        if id(m) in names:
            stack.append(path(m))
            running.append(m)

    def leave(m: nn.Module, _: Any, __: Any) -> None:
        # a child that raised never left: where its parent caught the error, both entries go
        while id(m) in names and running and running.pop() is not m:
            stack.pop()
        if id(m) in names:
            stack.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _noted_autocast(recorder: Recorder) -> Iterator[None]:
    """Note that a forward asks for autocast: a dispatch mode runs below it, and without CUDA torch makes it one that is off.

    What a module or a decorator made before its forward is not seen.
    """
    make = torch.autocast.__init__

    def noted(self: Any, device_type: str, dtype: Any = None, enabled: bool = True, *rest: Any, **named: Any) -> None:
        recorder.autocast = recorder.autocast or bool(enabled)
        make(self, device_type, dtype, enabled, *rest, **named)

    torch.autocast.__init__ = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__init__ = make  # type: ignore[method-assign]


class _MetaForOne(str):
    """A name of the device type that PyTorch leaves to others' backends, which for one thread "meta" is as well."""

    thread: int

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) or (other == "meta" and get_ident() == self.thread)

    __hash__ = str.__hash__


@contextmanager
def _attention_as_on_devices(module: nn.Module) -> Iterator[None]:
    """Let attention and encoder layers take on meta tensors the fast paths that they take on devices, by PyTorch's conditions.

    One of them is that no function mode is on, which `KnownIndices` is: it has nothing to do within. Another is the type of
    device, of which one is free; encoders, which look for it as well, would pack rows by values that are not known. Other
    threads see neither.
    """
    fast = {id(m) for m in module.modules() if _has_fast_path(m)}
    within: list[tuple[Any, str]] = []
    free = _MetaForOne(backend_registration._privateuse1_backend_name)
    free.thread = get_ident()

    def enter(m: nn.Module, _: Any) -> None:
        if id(m) in fast:
            within.append((torch._C.DisableTorchFunction(), backend_registration._privateuse1_backend_name))
            within[-1][0].__enter__()
            backend_registration._privateuse1_backend_name = free

    def leave(m: nn.Module, _: Any, __: Any) -> None:
        if id(m) in fast:
            mode, backend_registration._privateuse1_backend_name = within.pop()
            mode.__exit__(None, None, None)

    with TORCH_STATE:
        handles = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            while within:  # hooks are passed over by what is no Exception, such as Ctrl-C
                mode, backend_registration._privateuse1_backend_name = within.pop()
                mode.__exit__(None, None, None)
            for handle in handles:
                handle.remove()


def _has_fast_path(m: nn.Module) -> bool:
    """Whether a module asks for one: attention, and encoder layers as PyTorch wrote them, with an activation that it knows."""
    if isinstance(m, nn.TransformerEncoderLayer):
        return type(m).forward is nn.TransformerEncoderLayer.forward and m.activation_relu_or_gelu > 0
    return isinstance(m, nn.MultiheadAttention)


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Keep `nn.MultiheadAttention` from its fast path: each of its operators is called by itself."""
    with TORCH_STATE:
        enabled = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(enabled)


_CURES = (
    (r"no rule registered for \w+ (\w+)", r"\1, which takes functions, is not traced: call the one that runs in its place"),
    (
        "FlexAttention is only supported on",
        "flex_attention, which compiles a function, is not traced: call scaled_dot_product_attention in its place",
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
