"""The table of ONNX operators: each is a few lines that call the PyTorch operator with the same meaning.

An operator takes its Node and its inputs (None where an optional one is left out) and returns its output or outputs.
It runs on meta tensors; the values of those known to be sizes or indices are at hand through `ints` and `scalar`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...errors import InputError
from ...trace.constants import value_of
from .graph import Node

Operator = Callable[..., Any]

OPERATORS: dict[str, Operator] = {}
"""By the name of the operator in ONNX's default domain, or `wattlayer.` and a name for what `fuse` puts together."""


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register the decorated function as the operators `names`."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def ints(node: Node, x: torch.Tensor | None) -> list[int]:
    """Return the values of a tensor of sizes, axes or indices; raise InputError where only running the network gives them."""
    value = None if x is None else value_of(x)
    if value is None:
        raise InputError(
            f"{node.label} needs values that only running the network could give: export it with fixed sizes, and where weights"
            " are external data keep sizes in the file (size_threshold=1024)"
        )
    return [int(n) for n in value.reshape(-1).tolist()]


def scalar(x: Any) -> Any:
    """Return the number that a tensor of one element is known to hold, else the tensor."""
    value = value_of(x) if isinstance(x, torch.Tensor) and x.numel() == 1 else None
    return x if value is None else value.item()


def axes(node: Node, given: torch.Tensor | None) -> list[int] | None:
    """Return the axes that a node works on: an attribute in old operator sets, an input in new ones; None where it has none."""
    if given is not None:
        return ints(node, given)
    listed = node.get("axes")
    return None if listed is None else list(listed)


def spatial(node: Node, name: str, rank: int, default: int) -> tuple[int, ...]:
    """Return attribute `name`, one number for each spatial dimension; raise InputError for another count, and below `default`."""
    values = tuple(node.get(name, (default,) * rank))
    if len(values) != rank:
        raise InputError(f"{node.label}: {name} {values} is not one number for each of {rank} dimensions")
    if min(values) < default:
        raise InputError(f"{node.label}: {name} {values} must be at least {default}")
    return values


def padding(
    node: Node,
    x: torch.Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    ceil: bool = False,
    pooling: bool = False,
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """Return the input, padded where the operator itself cannot, and the padding that is left to it.

    PyTorch's operators pad alike before and after, and those of `pooling` by no more than half a kernel, gaps not counted. Where
    sizes are rounded up (`ceil`), no window begins in the padding behind the input, as in PyTorch.
    """
    rank = len(kernel)
    needed = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations)]
    before, after = ends(node, node.get("auto_pad", "NOTSET"), needed)
    if before == after and not (pooling and any(p > k // 2 for p, k in zip(before, kernel))):
        return x, before
    if ceil:
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
        inside = [n + p for n, p in zip(x.shape[2:], before)]
        last = [min(-(-(n + p - w) // s), (n - 1) // s) for n, p, w, s in zip(inside, after, spans, strides)]
        after = tuple(i * s + w - n for i, s, w, n in zip(last, strides, spans, inside))
    flat = [n for pair in zip(reversed(before), reversed(after)) for n in pair]
    return torch.nn.functional.pad(x, flat), (0,) * rank


def ends(node: Node, auto: str, needed: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the padding before and after each spatial dimension: as listed or, where `auto` says SAME, halves of `needed`."""
    rank = len(needed)
    if auto in ("NOTSET", ""):
        pads = tuple(node.get("pads", (0,) * 2 * rank))
        if len(pads) != 2 * rank:
            raise InputError(f"{node.label}: pads {pads} are not two for each of {rank} dimensions")
        return pads[:rank], pads[rank:]
    if auto == "VALID":
        return (0,) * rank, (0,) * rank
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise InputError(f"{node.label}: auto_pad {auto!r} is none of NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    small, large = tuple(n // 2 for n in needed), tuple(n - n // 2 for n in needed)
    return (small, large) if auto == "SAME_UPPER" else (large, small)
