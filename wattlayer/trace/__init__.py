"""From a network to its layers, without weights and without running it: the Trace record and `trace`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..layer import Layer, Operand, check_tf32
from .assumptions import HELD_WEIGHTS
from .flow import Flow

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Trace:
    """The operator calls of one forward pass, in call order, each with the path of the module that made it."""

    network: str
    layers: tuple[Layer, ...]
    paths: tuple[str, ...]
    inputs: tuple[Operand, ...] = ()
    tf32: str = "conv"
    assumptions: tuple[str, ...] = ()
    """What was taken for granted, as of values that only weights could tell, a sentence each."""
    flow: Flow | None = field(default=None, compare=False, repr=False)
    """Which call feeds which; None where that is not known, as of a network put together from traced parts."""

    @property
    def batch(self) -> int:
        """Size of the first dimension of the first input; 1 where there is none."""
        return self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else 1

    @cached_property
    def dtype(self) -> str:
        """The dtype that most FLOP are done in, a floating one if any is; "int8", "int4" where linear layers' weights are so."""
        held = next((dtype for dtype, said in HELD_WEIGHTS.items() if said in self.assumptions), None)
        if held is not None:
            return held
        flop: Counter[str] = Counter()
        for layer, calls in self._unique.items():
            flop[layer.dtype] += calls * layer.flop + 1
        return max(flop, key=lambda x: ("float" in x or "complex" in x, flop[x]), default="float32")

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the input tensors, each once."""
        return tuple(dict.fromkeys(x.shape for x in self.inputs))

    @property
    def flop(self) -> int:
        """Work of one pass, a multiply-add counted as two."""
        return sum(layer.flop * calls for layer, calls in self._unique.items())

    @property
    def read_bytes(self) -> int:
        """Bytes that the calls of one pass read, each operand once a call, and one tensor that is both operands once."""
        return sum(layer.read_bytes * calls for layer, calls in self._unique.items())

    @property
    def write_bytes(self) -> int:
        """Bytes that the calls of one pass write."""
        return sum(layer.write_bytes * calls for layer, calls in self._unique.items())

    @cached_property
    def held_bytes(self) -> int:
        """Bytes of what no call writes, its weights and inputs, each counted once; 0 where it is not known what feeds what."""
        if self.flow is None:
            return 0
        written, held = self.flow.producers(), dict[int, int]()
        for layer, places in zip(self.layers, self.flow.reads):
            for (value, _), x in zip(places, layer.inputs):
                if value not in written:
                    held[value] = max(held.get(value, 0), x.size_bytes)  # a view may show a part of it alone
        return sum(held.values())

    def unique(self) -> Counter[Layer]:
        """Return each distinct layer with the number of its calls, in order of first call."""
        return Counter(self._unique)

    @cached_property
    def _unique(self) -> Counter[Layer]:
        return Counter(self.layers)

    def with_tf32(self, mode: str) -> Trace:
        """Return this trace as it runs under TF32 `mode`: "none", "conv" (PyTorch's default) or "all"."""
        changed = {layer: layer.with_tf32(mode) for layer in self._unique}
        return replace(self, layers=tuple(changed[x] for x in self.layers), tf32=check_tf32(mode))


def trace(
    module: nn.Module,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    tf32: str = "conv",
    train_mode: bool = False,
    network: str | None = None,
    cached: bool = False,
) -> Trace:
    """Record the operator calls of `module(*inputs, **kwargs)` on the meta device, in inference mode.

    Neither `module` nor its weights are touched: parameters are replaced by meta tensors of their shapes. Inputs may
    be tensors on any device, and tuples, lists or dicts of them. `dtype` converts floating parameters and inputs;
    None leaves them. `nn.MultiheadAttention` takes its fast path where it would on a device (`torch.backends.mha` turns it
    off). Hooks of the module run, on meta tensors. `cached` remembers operator calls over traces, for a loop over networks that
    are alike: the same trace, and only what is new costs.

    Raises InputError when the forward pass itself fails, with its reason, and for an unknown `dtype` or `tf32`.
    """
    from .recorder import record

    check_tf32(tf32)
    if not isinstance(kwargs, Mapping | None):
        raise InputError(f"kwargs {kwargs!r:.60} are no keyword arguments: give a dict of names")
    calls, operands, assumptions, flow = record(module, inputs, dict(kwargs or {}), dtype, train_mode, cached)
    name = network or type(module).__name__
    paths = tuple(path for path, _ in calls)
    return Trace(name, _layers(calls), paths, operands, "none", assumptions, flow).with_tf32(tf32)


def _layers(calls: Sequence[tuple[str, Layer]]) -> tuple[Layer, ...]:
    return tuple(layer for _, layer in calls)
