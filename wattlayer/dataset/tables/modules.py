"""`repr` of a torch module as a Layer: parsed, looked up among torch.nn's own classes, traced; never evaluated."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from inspect import signature
from typing import Any

from ...errors import InputError, first_line, nearest
from ...layer import Layer, Operand
from ...quiet import quiet
from ...trace.assumptions import HELD_WEIGHTS
from ...trace.rewrite import trace_as

Call = tuple[str, tuple[Any, ...], dict[str, Any]]

PARAMETERS = 1000
"""A module with more parameter tensors than this is not one layer: `LSTM(8, 8, 70000)` would build for half an hour."""


@lru_cache(maxsize=65536)
def layer_of(text: str, input_shapes: tuple[tuple[int, ...], ...], dtype: str, tf32: str, train_mode: bool) -> Layer:
    """Return the one Layer that the module written as `text` runs on inputs of `input_shapes`.

    Raises InputError where the text is not a module of torch.nn with literal arguments, does not run on these
    shapes, or runs no operator or several.
    """
    name, args, kwargs = parse_call(text)
    if name == "StochasticDepth":
        return _stochastic_depth(kwargs, input_shapes[0], dtype, train_mode)
    return layer_of_module(build_module(name, args, kwargs), input_shapes, dtype, tf32, train_mode)


def layer_of_module(
    module: Any, input_shapes: tuple[tuple[int, ...], ...], dtype: str, tf32: str, train_mode: bool = False
) -> Layer:
    """Return the one Layer that `module` runs; a train-mode batch norm's step counter and the zeros that a recurrent module
    starts from are none."""
    import torch

    if any(n < 1 for shape in input_shapes for n in shape):
        raise InputError(f"input shapes {input_shapes} have a size below 1")
    indices = type(module).__name__.startswith("Embedding")
    kind = torch.int64 if indices else torch.float32
    try:
        inputs = [torch.empty(shape, dtype=kind, device="meta") for shape in input_shapes]
    except (TypeError, RuntimeError):
        raise InputError(f"input shapes {input_shapes} are beyond what a tensor can have") from None
    with quiet():  # torch's advice on how to write a module is no news to who measured it
        traced = trace_as(dtype, module, *inputs, tf32=tf32, train_mode=train_mode)
    layers = [x for x in traced.layers if not _is_beside(x)]
    if dtype in HELD_WEIGHTS and not any(x.dtype == dtype for layer in layers for x in layer.inputs):
        name = type(module).__name__
        raise InputError(f"dtype {dtype!r} holds the weights of linear layers, which {name} is not: say its own dtype")
    if len(layers) != 1:
        did = ", ".join(x.kind for x in layers) or "no operator at all"
        raise InputError(f"{type(module).__name__} is not one layer in {'train' if train_mode else 'eval'} mode: it runs {did}")
    return layers[0]


def _is_beside(layer: Layer) -> bool:
    return layer.group == "creation" or all(not x.shape for x in layer.outputs)


def parse_call(text: str) -> Call:
    """Return (class name, positional, keyword) of `Name(literal, key=literal)`; a bare word counts as text (mode=row)."""
    text = text.strip()
    if re.match(r"\w+\(\n", text):
        raise InputError(f"layer_repr {text[:80]!r} is of a module made of others: give each of its layers a row")
    try:
        call = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"layer_repr {text[:80]!r} is not the repr of a torch module") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or any(k.arg is None for k in call.keywords):
        raise InputError(f"layer_repr {text[:80]!r} is not the repr of a torch module")
    return call.func.id, tuple(_literal(x, text) for x in call.args), {str(k.arg): _literal(k.value, text) for k in call.keywords}


def _literal(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Name):
        if (meant := {"true": "True", "false": "False", "null": "None"}.get(node.id.lower())) is not None:
            raise InputError(f"layer_repr {text[:80]!r} has {node.id}, which Python does not know: write {meant}")
        return node.id
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        written = (ast.get_source_segment(text, node) or "")[:80]
        raise InputError(f"layer_repr has an argument that is not a literal: {written!r}") from None


def build_module(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Build torch.nn's class `name` on the meta device from literal arguments."""
    import torch

    classes = {n: c for n, c in vars(torch.nn.modules).items() if isinstance(c, type) and issubclass(c, torch.nn.Module)}
    leaves = [n for n in classes if n != "Transformer"]  # a stack of as many layers as an argument says, copied one by one
    if name not in leaves:
        raise InputError(f"layer_repr names {name!r}, which is not a layer of torch.nn{nearest(name, leaves)}")
    build = classes[name]
    try:
        given = signature(build).bind(*args, **kwargs)
        if "device" in kwargs or "device" in given.arguments:
            raise InputError("the device is not part of a layer")
        for argument, value in given.arguments.items():
            if isinstance(value, str) and isinstance(given.signature.parameters[argument].default, bool):
                raise InputError(f"{argument}={value[:20]} is neither True nor False")
        with torch.device("meta"), _few_parameters():
            return build(*args, **kwargs)
    except Exception as error:  # the arguments are whatever the table holds
        raise InputError(f"{name} cannot be built from these arguments: {first_line(error)}") from None


@contextmanager
def _few_parameters() -> Iterator[None]:
    """Refuse, within, to build a module of more than PARAMETERS tensors; it is stopped at the first one too many."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1
        if count > PARAMETERS:
            raise InputError(f"it has more than {PARAMETERS} parameter tensors, which one layer has not")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()


def _stochastic_depth(arguments: dict[str, Any], shape: tuple[int, ...], dtype: str, train_mode: bool) -> Layer:
    """torchvision's StochasticDepth in train mode: draws, scales and multiplies; one layer of its own kind."""
    p = arguments.get("p")
    if not train_mode:
        raise InputError("StochasticDepth is not one layer in eval mode: it runs no operator at all")
    if not isinstance(p, int | float) or not 0 <= p < 1:
        raise InputError(f"StochasticDepth has p {p!r}, which is not a share in 0..1")
    x = Operand("input", shape, dtype)
    return Layer("stochastic_depth", (x,), (Operand("output", shape, dtype),), (("active", p > 0),))
