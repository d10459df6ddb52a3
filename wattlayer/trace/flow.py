"""Which value each operator call reads and writes: what a Layer, made of shapes only, leaves out and fusion needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Place = tuple[int, int]
"""A value and where in its memory a tensor starts, in elements: halves of a split tensor differ by it."""


@dataclass(frozen=True)
class Flow:
    """The values of one forward pass, numbered; each is written once, so an operator in place reads one and writes the next."""

    reads: tuple[tuple[Place, ...], ...]
    """Of each call, the place of each of its layer's inputs, in their order."""
    writes: tuple[tuple[int, ...], ...]
    """Of each call, the value of each of its layer's outputs. What no call writes comes from outside: weights, inputs."""
    results: tuple[int, ...] = ()
    """Values that the network returns."""

    def producers(self) -> dict[int, int]:
        """Return the call that writes each value."""
        return {value: call for call, values in enumerate(self.writes) for value in values}

    def readers(self) -> dict[int, list[int]]:
        """Return the calls that read each value, in call order; a value that nobody reads is left out."""
        readers: dict[int, list[int]] = {}
        for call, places in enumerate(self.reads):
            for value in dict.fromkeys(value for value, _ in places):
                readers.setdefault(value, []).append(call)
        return readers


class Memory:
    """Follow the memory of tensors through the calls of one pass; a view is the memory that it is a view of."""

    def __init__(self) -> None:
        self._value: dict[int, int] = {}
        self._varying: set[int] = set()
        self._held: list[object] = []  # a storage that lives keeps its address from being used again
        self._count = 0
        self._reads: list[tuple[Place, ...]] = []
        self._writes: list[tuple[int, ...]] = []

    def add(self, read: Iterable[torch.Tensor], written: Iterable[torch.Tensor]) -> None:
        """Take down one call."""
        written = list(written)
        self._reads.append(tuple([self._place(x) for x in read]))
        self._writes.append(tuple([self._next(x) for x in written]))
        self.vary(written)

    def vary(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take down what is no weight: what the network is given, and what calls write."""
        self._varying.update(map(address, tensors))

    def is_weight(self, x: torch.Tensor) -> bool:
        """Whether a tensor is the network's own: neither given to it nor written by a call."""
        return address(x) not in self._varying

    def flow(self, results: Iterable[torch.Tensor]) -> Flow:
        """Return the flow of all calls so far; `results` are what the network returns."""
        values = (self._value.get(address(x)) for x in results)
        return Flow(tuple(self._reads), tuple(self._writes), tuple(dict.fromkeys(v for v in values if v is not None)))

    def _place(self, x: torch.Tensor) -> Place:
        value = self._value.get(address(x))
        return (self._next(x) if value is None else value), 0 if _scattered(x) else int(x.storage_offset())

    def _next(self, x: torch.Tensor) -> int:
        self._held.append(x if _scattered(x) else x.untyped_storage())
        self._count += 1
        self._value[address(x)] = self._count
        return self._count


def _scattered(x: torch.Tensor) -> bool:
    """Sparse tensors have no one storage: each is a value of its own."""
    return str(x.layout) != "torch.strided"  # torch itself is not imported here


def address(x: torch.Tensor) -> int:
    """Return what tells the memory of a tensor from that of others while it lives."""
    return id(x) if _scattered(x) else x.untyped_storage()._cdata
