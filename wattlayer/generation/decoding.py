"""Passes of a decoder over a prompt and over one token, and what every step in between comes to without tracing it.

The operators of a step are the same at every length of the cache but for sizes that are affine in it. So the steps at both ends
of a range are traced, every size in between follows exactly, and a third trace in the middle checks that; where it does not hold
(a sliding window fills up) the range is halved until it does. A size that grows and then stays, as a window's does, agrees with
a straight line at both ends and in the middle only where it is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..layer import Layer, Operand
from ..trace import Trace, trace
from ..trace.rewrite import with_weights

if TYPE_CHECKING:
    from ..adapters import Network

MOST_TRACES = 64
"""A range of steps that needs more traces than this is refused: its sizes do not follow from the cache's length."""


CACHES = ("past_key_values", "cache_params", "state")
"""What decoders of transformers call what they keep of earlier tokens: keys and values, or a state that does not grow."""


EVERY_LOGIT = "logits of all positions of the prompt are computed, as transformers' own code does it; servers take the last one's"
"""Of decoders that cannot be told which logits to keep."""


@dataclass(frozen=True)
class Segment:
    """Steps from `first` to `last` tokens in the cache, whose calls differ in nothing but affine sizes."""

    first: int
    last: int
    calls: tuple[tuple[Layer, Layer], ...]
    """Every call in order: its layer at the first and at the last step."""

    def layers(self, call: tuple[Layer, Layer]) -> list[Layer]:
        """Return the layer of a call at every step, or once where all steps have the same."""
        if call[0] == call[1]:
            return [call[0]]
        return [between(*call, i, self.last - self.first) for i in range(self.last - self.first + 1)]


class Passes:
    """Traces of one decoder: over a prompt, and of one step on a cache; each is traced once."""

    def __init__(self, network: Network, batch: int, tf32: str) -> None:
        self._network, self._batch, self._tf32 = network, batch, tf32
        self._prompts: dict[int, tuple[Trace, Any]] = {}
        self._steps: dict[int, Trace] = {}

    def prompt(self, tokens: int) -> Trace:
        """Return the pass over a prompt of `tokens` into an empty cache."""
        return self._prompt(tokens)[0]

    def step(self, context: int) -> Trace:
        """Return the pass over one token with `context` tokens in the cache."""
        if context not in self._steps:
            if len(self._steps) >= MOST_TRACES:
                raise InputError(f"{self._network.name}: the sizes of its steps do not follow from the length of its cache")
            # the step adds to its cache, which no other step must see
            self._steps[context] = self._traced(1, self._prompts.pop(context, None) or self._prompt(context, keep=False))[0]
        return self._steps[context]

    def _prompt(self, tokens: int, keep: bool = True) -> tuple[Trace, Any]:
        found = self._prompts.get(tokens) or self._traced(tokens, None)
        if keep:
            self._prompts[tokens] = found
        return found

    def _traced(self, tokens: int, before: tuple[Trace, Any] | None) -> tuple[Trace, Any]:
        import torch

        module, kept = self._network.module, []
        cache = next((name for name in CACHES if takes(module, name)), CACHES[0])
        given = {} if before is None else {cache: before[1]}
        last = {"logits_to_keep": 1} if takes(module, "logits_to_keep") else {}
        # by hooks, for a cache is an object of its own that must arrive as it is
        handles = (
            module.register_forward_pre_hook(lambda _, args, kwargs: (args, {**kwargs, **given}), with_kwargs=True),
            module.register_forward_hook(lambda _, args, result: kept.append(result)),
        )
        ids = torch.zeros(self._batch, tokens, dtype=torch.int64, device="meta")
        try:
            found = trace(
                module, kwargs={"input_ids": ids, "use_cache": True, **last}, tf32=self._tf32, network=self._network.name
            )
        finally:
            for handle in handles:
                handle.remove()
        made = getattr(kept[-1], cache, None) if kept else None
        if made is None:
            raise InputError(f"{self._network.name} keeps no cache: price its passes with --seq-len")
        logits = getattr(kept[-1], "logits", None)
        every = logits is not None and tokens > 1 and logits.dim() == 3 and logits.shape[1] == tokens
        found = replace(found, assumptions=(*self._network.assumptions, *found.assumptions, *(EVERY_LOGIT,) * every))
        return with_weights(found, self._network.asked_dtype), made


def takes(module: Any, name: str) -> bool:
    """Whether a module's forward has a parameter called `name`."""
    from inspect import signature

    return name in signature(module.forward).parameters


def segments(passes: Passes, first: int, last: int) -> Iterator[Segment]:
    """Yield the steps from `first` to `last` tokens in the cache in ranges in which every size is affine."""
    ends = passes.step(first).layers, passes.step(last).layers
    if _affine(passes, first, last):
        yield Segment(first, last, tuple(zip(*ends)))
    elif last - first == 1:
        for context, layers in zip((first, last), ends):
            yield Segment(context, context, tuple(zip(layers, layers)))
    else:
        middle = (first + last) // 2
        yield from segments(passes, first, middle)
        yield from segments(passes, middle + 1, last)


def _affine(passes: Passes, first: int, last: int) -> bool:
    """Whether the steps at both ends and in the middle are one step whose sizes lie on straight lines."""
    middle = (first + last) // 2
    steps = [passes.step(context).layers for context in (first, middle, last)]
    if len({tuple(x.kind for x in layers) for layers in steps}) > 1:
        return False
    try:
        return all(between(a, b, middle - first, last - first) == found for a, found, b in set(zip(*steps)))
    except NotAffineError:
        return False


class NotAffineError(Exception):
    """A value of a layer does not move in equal whole steps."""


def between(first: Any, last: Any, at: int, of: int) -> Any:
    """Return a layer, or part of one, `at` of `of` equal steps from `first` to `last`; raise NotAffineError if there is none."""
    if first is last or first == last:
        return first
    if isinstance(first, Layer):
        parts = ((first.inputs, last.inputs), (first.outputs, last.outputs), (first.arguments, last.arguments))
        inputs, outputs, arguments = (between(a, b, at, of) for a, b in parts)
        return replace(first, inputs=inputs, outputs=outputs, arguments=arguments)
    if isinstance(first, Operand) and isinstance(last, Operand):
        return replace(
            first, shape=between(first.shape, last.shape, at, of), strides=between(first.strides, last.strides, at, of)
        )
    if isinstance(first, tuple) and isinstance(last, tuple) and len(first) == len(last):
        return tuple(between(a, b, at, of) for a, b in zip(first, last))
    if type(first) is int and type(last) is int and (last - first) * at % of == 0:
        return first + (last - first) * at // of
    raise NotAffineError
