"""A second opinion on FLOP: fvcore by module, torch's own counter in total, and the reason wherever they part.

fvcore counts a multiply-add of matrix-like operators once; its counts of these are doubled here. Both run on the meta
device, so that neither needs weights.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .errors import first_line
from .kinds import LINEAR_DYNAMIC
from .quiet import quiet
from .trace.constants import KnownIndices
from .trace.hooks import causal_masks, unfused_attention
from .trace.recorder import Recorder

if TYPE_CHECKING:
    from .adapters.source import Network
    from .layer import Layer
    from .trace import Trace

MATRIX_GROUPS = ("conv", "matmul", "attention", "recurrent")
"""Groups of kinds that `torch.utils.flop_counter` counts."""

_TORCH_OMITS = (
    "_grouped_mm", "torchvision::deform_conv2d", "mv", "dot", "vdot", "addmv", "linalg_solve_triangular", "_int_mm", "addbmm",
    "_weight_int8pack_mm", "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu", "_trilinear", "cdist", "_cdist_forward",
    *LINEAR_DYNAMIC,
)  # fmt: skip
"""Kinds of these groups that it leaves out."""

_DOUBLED = {"conv": "conv"} | dict.fromkeys(("addmm", "bmm", "einsum", "matmul", "mm", "linear"), "matmul")
"""fvcore's operators that it counts a multiply-add of once, and what they are called here."""

Counts = Counter[tuple[str, str]]
"""FLOP by module path (calls of the module itself, not of its children) and by kind."""


@dataclass(frozen=True)
class FlopRow:
    """FLOP of one kind of operator called by one module; `kind` is "conv" and "matmul" for all kinds of these groups."""

    path: str
    kind: str
    flop: int
    fvcore_flop: int | None
    """None where fvcore does not count this kind."""

    @property
    def reason(self) -> str:
        """Why the two counts part; "" where they are equal."""
        if self.fvcore_flop == self.flop:
            return ""
        if self.fvcore_flop is None:
            return f"fvcore does not count {self.kind}"
        if self.kind in ("conv", "matmul"):
            return "fvcore follows another shape or another number of calls here"
        return f"fvcore counts {self.kind} by another convention"


@dataclass(frozen=True)
class FlopCheck:
    """Our FLOP of a network beside those of fvcore and of `torch.utils.flop_counter.FlopCounterMode`."""

    network: str
    rows: tuple[FlopRow, ...]
    flop: int
    """All kinds, as wattlayer counts them."""
    matrix_flop: int
    """The kinds that FlopCounterMode counts (conv, matmul, attention, recurrent), as wattlayer counts them."""
    torch_flop: int
    """FlopCounterMode's total."""
    fvcore_flop: int
    """What fvcore counts, a multiply-add taken as two; 0 where it could not run."""
    failure: str = ""
    """Why fvcore, which traces through TorchScript, could not run the network; "" where it could."""

    @property
    def agrees(self) -> bool:
        """Whether we equal FlopCounterMode in total, and fvcore wherever it counts convolutions and matrix products."""
        matrix = (row for row in self.rows if row.kind in ("conv", "matmul"))
        return self.matrix_flop == self.torch_flop and not self.failure and not any(row.reason for row in matrix)

    def parted(self) -> dict[str, int]:
        """Return what we count more (or, negative, less) than fvcore, by reason."""
        parts: Counter[str] = Counter()
        for row in self.rows:
            if row.reason:
                parts[row.reason] += row.flop - (row.fvcore_flop or 0)
        return dict(sorted(parts.items(), key=lambda part: -abs(part[1])))

    def __str__(self) -> str:
        lines = [
            f"FLOP of {self.network}: {self.flop:,} in all, {self.matrix_flop:,} in conv, matmul, attention and recurrent kinds",
            f"  torch FlopCounterMode {self.torch_flop:,} ({'equal' if self.torch_flop == self.matrix_flop else 'NOT equal'})",
            f"  fvcore, doubled       {self.failure or format(self.fvcore_flop, ',')}",
        ]
        return "\n".join(lines + [f"    {flop:+,}  {reason}" for reason, flop in self.parted().items()])


def check_flops(network: Network, trace: Trace) -> FlopCheck:
    """Count the FLOP of `network` by fvcore and by torch, and set them beside those of its `trace`."""
    theirs, failure = _fvcore_counts(network)
    once = _first_paths(network.module)
    trace = replace(trace, paths=tuple(once.get(path, path) for path in trace.paths))
    if not failure:
        theirs += _fvcore_conv_counts(trace)
    return FlopCheck(
        network=network.name,
        rows=() if failure else tuple(_rows(_own_counts(trace), theirs)),
        flop=trace.flop,
        matrix_flop=sum(layer.flop * calls for layer, calls in trace.unique().items() if torch_counts(layer)),
        torch_flop=count_with_torch(network),
        fvcore_flop=sum(theirs.values()),
        failure=failure,
    )


def _rows(ours: Counts, theirs: Counts) -> Iterator[FlopRow]:
    for path, kind in dict.fromkeys([*ours, *theirs]):
        row = FlopRow(path, kind, ours[path, kind], theirs.get((path, kind)))
        if row.flop or row.fvcore_flop:  # what only moves bytes has nothing to compare
            yield row


def torch_counts(layer: Layer) -> bool:
    """Whether `torch.utils.flop_counter` counts a layer of this kind."""
    with_vector = layer.kind == "matmul" and len(layer.inputs[1].shape) == 1  # runs as mv or dot
    return layer.group in MATRIX_GROUPS and layer.kind not in _TORCH_OMITS and not with_vector


def count_with_torch(network: Network) -> int:
    """Return the total of `torch.utils.flop_counter.FlopCounterMode` over one forward pass of `network`."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    # the recorder below answers what a forward asks of values, which meta tensors lack
    with torch.inference_mode(), unfused_attention(), causal_masks(), Recorder(), counter, KnownIndices():
        network.module(*network.args, **network.kwargs)
    return counter.get_total_flops()


def _first_paths(module: nn.Module) -> dict[str, str]:
    """Every path of a module by its first one, which is the one that fvcore knows where several blocks share a module."""
    first = {id(m): path for path, m in module.named_modules()}
    return {path: first[id(m)] for path, m in module.named_modules(remove_duplicate=False)}


def _own_counts(trace: Trace) -> Counts:
    counts: Counts = Counter()
    for path, layer in zip(trace.paths, trace.layers):
        counts[path, layer.group if layer.group in ("conv", "matmul") else layer.kind] += layer.flop
    return counts


def _fvcore_counts(network: Network) -> tuple[Counts, str]:
    """Return fvcore's counts, convolutions apart, and "", or none and why."""
    from fvcore.nn import FlopCountAnalysis

    leaves, spec = tree_flatten((network.args, dict(network.kwargs)))
    tensors = tuple(x for x in leaves if isinstance(x, torch.Tensor))
    with _quiet(), torch.no_grad(), unfused_attention(), _plain_sizes():
        try:
            analysis = FlopCountAnalysis(_Positional(network.module, leaves, spec), tensors)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            found = analysis.by_module_and_operator()
        except Exception as error:  # of TorchScript's tracer, on somebody else's forward
            return Counter(), f"could not run: {first_line(error)}"
    return _without_children({path: Counter(counts) for path, counts in found.items()}), ""


def _fvcore_conv_counts(trace: Trace) -> Counts:
    """Count convolutions by fvcore's formula on the shapes of the trace.

    On the meta device TorchScript's tracer sees no convolution, only the allocation of its result.
    """
    from fvcore.nn.jit_handles import conv_flop_count

    counts: Counts = Counter()
    for path, layer in zip(trace.paths, trace.layers):
        if layer.kind.startswith("conv"):
            x, weight, out = layer.inputs[0].shape, layer.inputs[1].shape, layer.outputs[0].shape
            counts[path, "conv"] += 2 * int(conv_flop_count(x, weight, out, transposed="transpose" in layer.kind))
    return counts


def _without_children(found: Mapping[str, Counter[str]]) -> Counts:
    """Take from each module's count, which includes its children, what these count."""
    own: Counts = Counter()
    for path, counts in found.items():
        parent = path.rpartition(".")[0] if path else None
        for operator, count in counts.items():
            kind = _DOUBLED.get(operator, operator)
            flop = int(count) * (2 if operator in _DOUBLED else 1)
            own[path, kind] += flop
            if parent is not None:
                own[parent, kind] -= flop
    return Counter({(_unwrapped(path), kind): flop for (path, kind), flop in own.items() if flop})


class _Positional(nn.Module):
    """A network that takes its tensors as a flat list, which is all that fvcore hands on."""

    def __init__(self, network: nn.Module, leaves: list[Any], spec: Any) -> None:
        super().__init__()
        self.network = network
        self._leaves = leaves
        self._spec = spec

    def forward(self, *tensors: torch.Tensor) -> Any:
        given = iter(tensors)
        leaves = [next(given) if isinstance(x, torch.Tensor) else x for x in self._leaves]
        args, kwargs = tree_unflatten(leaves, self._spec)
        return self.network(*args, **kwargs)


def _unwrapped(path: str) -> str:
    return path.removeprefix("network").removeprefix(".")


@contextmanager
def _plain_sizes() -> Iterator[None]:
    """Hand out sizes as numbers: TorchScript's tracer makes tensors of them, at which shape inference on meta fails.

    It fails inside torch's own Python code, out of reach of function and dispatch modes, so the class itself is changed.
    """
    base: Any = torch.Tensor.__base__

    def size(x: torch.Tensor, dim: int | None = None) -> Any:
        return torch.Size(int(n) for n in base.size(x)) if dim is None else int(base.size(x, dim))

    plain = {"size": size, "shape": property(size), "numel": lambda x: int(base.numel(x))}
    for name, value in plain.items():
        setattr(torch.Tensor, name, value)
    try:
        yield
    finally:
        for name in plain:
            delattr(torch.Tensor, name)  # what the base class has shows again


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings of TorchScript's tracer and of fvcore about what they cannot see to ourselves."""
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    disabled, logger.disabled = logger.disabled, True
    try:
        with quiet():
            yield
    finally:
        logger.disabled = disabled
