"""Search spaces as frozen values: a candidate is a genome, a genome is a sequence of parts, a part is traced once.

A genome is a tuple of whole numbers; position i chooses among `choices[i]`. Each slot of a space reads a few positions
and says which parts of the network they decide on. What a part is made of follows from its frozen fields alone, and so
do the layers it runs: they are traced once per process, and a candidate that shares parts with an earlier one costs
only what is new. The same independence of slots makes `LookupTable` exact.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError, check_whole
from ..features.columns import forget_layers
from ..layer import Layer, Operand
from ..trace import Trace
from ..trace.assumptions import unknown_arithmetic
from ..trace.rewrite import computes_in, held_weights, trace_as

if TYPE_CHECKING:
    from torch import nn

Genome = tuple[int, ...]
"""One candidate: position i holds a whole number from 0 to `choices[i]` - 1."""


class Part(Hashable, Protocol):
    """A piece of a network as a frozen, hashable value: equal parts run equal layers.

    Its inputs are taken to be contiguous, so it ought to return such tensors (`x.flatten(2).transpose(1, 2)` is none): what a
    following part pays for another layout is seen only in the trace of the whole network.
    """

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of its float inputs without the batch dimension."""

    def build(self) -> nn.Module:
        """Return the module, on the device that is torch's default where this is called."""


Placed = tuple[str, Part]
"""A part with its module path in the network that the space builds."""


@dataclass(frozen=True)
class Slot:
    """What the values of a few genome positions decide on, whatever the others hold."""

    positions: tuple[int, ...]
    parts: Callable[..., Sequence[Placed]]
    """From one value per position to the parts in call order; none where the slot is left out."""


@dataclass(frozen=True)
class Space:
    """A search space; genomes choose, slots in call order say what of."""

    name: str
    choices: tuple[int, ...]
    """How many values each genome position has."""
    slots: tuple[Slot, ...]
    assemble: Callable[[Genome], nn.Module] = field(compare=False)
    input_shapes: Callable[[Genome], tuple[tuple[int, ...], ...]] = field(compare=False)
    """Shapes of a candidate's inputs without the batch dimension."""
    labels: tuple[str, ...] = ()
    """What each genome position means."""

    @property
    def size(self) -> int:
        """Number of genomes; several may describe one network, where a choice has no effect."""
        total = 1
        for count in self.choices:
            total *= count
        return total

    def check(self, genome: Sequence[int]) -> Genome:
        """Return `genome` as a tuple; raise InputError where it does not belong to this space."""
        try:
            genome = tuple(genome)
        except TypeError:
            raise InputError(f"genome {genome!r} is no sequence of whole numbers") from None
        if len(genome) != len(self.choices):
            raise InputError(f"a genome of {self.name} has {len(self.choices)} positions, not {len(genome)}")
        for i, (value, count) in enumerate(zip(genome, self.choices)):
            if not _is_choice(value, count):
                raise InputError(f"position {i} of a genome of {self.name} is {value}, not one of 0 to {count - 1}")
        return tuple(int(x) for x in genome)

    def random(self, rng: random.Random) -> Genome:
        """Return a genome drawn evenly at every position."""
        return tuple(rng.randrange(count) for count in self.choices)

    def suggest(self, trial: Any) -> Genome:
        """Return a genome by asking an Optuna trial (or anything with `suggest_int`) for each position."""
        names = self.labels or tuple(f"position_{i}" for i in range(len(self.choices)))
        return tuple(trial.suggest_int(name, 0, count - 1) for name, count in zip(names, self.choices))

    def parts(self, genome: Sequence[int]) -> Iterator[Placed]:
        """Yield the parts of a candidate with their module paths, in call order."""
        genome = self.check(genome)
        for slot in self.slots:
            yield from slot.parts(*(genome[i] for i in slot.positions))

    def build(self, genome: Sequence[int]) -> nn.Module:
        """Return the candidate as one network in eval mode, on torch's default device."""
        return self.assemble(self.check(genome)).eval()

    def trace(self, genome: Sequence[int], batch: int = 1, dtype: str = "float32", tf32: str = "conv") -> Trace:
        """Return the candidate's trace from its parts; equal to `wattlayer.trace(space.build(genome), …)`.

        Raises InputError for a genome of another space, a batch that is no whole number of at least 1 and an
        unknown `dtype` or `tf32`.
        """
        check_whole("batch", batch)  # before caches are asked
        genome = self.check(genome)
        pieces = [
            placed_layers(path, part, batch, dtype, tf32)
            for slot in self.slots
            for path, part in slot.parts(*(genome[i] for i in slot.positions))
        ]
        inputs = tuple(Operand("input", (batch, *shape), computes_in(dtype)) for shape in self.input_shapes(genome))
        paths = tuple(chain.from_iterable(paths for paths, _, _ in pieces))
        layers = tuple(chain.from_iterable(layers for _, layers, _ in pieces))
        assumed = dict.fromkeys(chain.from_iterable(assumed for _, _, assumed in pieces))
        whole = Trace(self.name, layers, paths, inputs, tf32, tuple(assumed))
        return replace(whole, assumptions=(*whole.assumptions, *_of_all(whole, dtype)))


Traced = tuple[tuple[str, ...], tuple[Layer, ...], tuple[str, ...]]
"""Module paths and layers of a part, call by call, and what was taken for granted of it alone."""


# parts of different types may be equal: named tuples of equal fields are
@lru_cache(maxsize=1 << 16, typed=True)
def placed_layers(path: str, part: Part, batch: int, dtype: str, tf32: str) -> Traced:
    """Return what a part at `path` comes to; traced once for each frozen key."""
    own, layers, assumed = part_layers(part, batch, dtype, tf32)
    return tuple(".".join(filter(None, (path, x))) for x in own), layers, assumed


@lru_cache(maxsize=1 << 16, typed=True)
def part_layers(part: Part, batch: int, dtype: str, tf32: str) -> Traced:
    """Return what a part comes to, traced alone on meta tensors of `dtype`."""
    import torch

    with torch.device("meta"):
        module = part.build().eval()
        inputs = [torch.empty(batch, *shape) for shape in part.input_shapes]
    traced = trace_as(dtype, module, *inputs, tf32=tf32, cached=True)
    of_all = _of_all(traced, dtype)
    assumed = tuple(x for x in traced.assumptions if x not in of_all)
    if len(_INTERNED) > MOST_INTERNED:
        _INTERNED.clear()
    return traced.paths, tuple(_INTERNED.setdefault(layer, layer) for layer in traced.layers), assumed


def _of_all(trace: Trace, dtype: str) -> tuple[str, ...]:
    """What is taken for granted of all layers together, such as a share of their weights: that of a part is not the whole's."""
    return (*unknown_arithmetic(trace.layers), *held_weights(trace, dtype))


def _is_choice(value: Any, count: int) -> bool:
    try:
        return bool(0 <= value < count and int(value) == value)
    except (TypeError, ValueError):  # text, None, an array
        return False


_INTERNED: dict[Layer, Layer] = {}
"""Equal layers of different parts as one object: they then compare by identity, in a tenth of the time."""
MOST_INTERNED = 1 << 18
"""So many are kept, as many as have features kept (`features.columns`)."""


def clear_caches() -> None:
    """Forget every traced part, the operator calls of cached traces and the features of layers."""
    from ..trace.recorder import forget_calls

    forget_calls()
    forget_layers()
    placed_layers.cache_clear()
    part_layers.cache_clear()
    _INTERNED.clear()
