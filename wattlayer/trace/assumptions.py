"""What a trace assumes, in sentences for people: they are part of every answer."""

from __future__ import annotations

from collections.abc import Iterable

from ..kinds import KINDS
from ..layer import GROUP_SIZE, Layer

EVEN_CHOICES = "which entries are largest only weights tell: assumed even (tokens over experts; idle experts are not read)"
"""Said of a trace whose operators depend on a router's choice: with uneven loads it has fewer, larger matrix products."""

AUTOCAST = "torch.autocast is not followed: every operator is taken in the dtype of its own tensors, which `dtype` converts"
"""Said of a trace whose forward asks for autocast or ran under it."""

UNLIKE_DTYPES = "products of tensors of unlike dtypes, which PyTorch refuses: taken in the dtype of the first"
"""Said of a trace with such products: the meta device alone takes them, and so do networks that a cast made unlike."""

SPARSE = "sparse tensors are taken for dense ones of their shape: what they cost is not known, and mostly less"
"""Said of a trace of a network with sparse weights, buffers or inputs."""

UNKNOWN_ARITHMETIC = (
    "the arithmetic of {} is not known: it is counted as one FLOP an element of the output, which may be far too little"
)
"""Said of a trace with operators that no formula is of, by their names: of those nothing but shapes is known."""

HELD_WEIGHTS = {
    dtype: f"weights of linear layers are held in {dtype}, {scales}, and multiplied in float16: none was measured"
    for dtype, scales in (
        ("int8", "one scale an output channel"),
        ("int4", f"a scale and a zero point for {GROUP_SIZE} of a channel"),
    )
}
"""Said of a trace with weight-only quantisation, by the dtype of the weights."""


def unknown_arithmetic(layers: Iterable[Layer]) -> tuple[str, ...]:
    """Return what is to be said of layers of kinds that no formula is of; nothing of others."""
    foreign = {layer.kind for layer in layers} - KINDS.keys()
    return (UNKNOWN_ARITHMETIC.format(", ".join(sorted(foreign))),) if foreign else ()
