"""Quantities as people read them: three digits and a prefix."""

from __future__ import annotations

from collections.abc import Sequence

_LARGE = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SMALL = (*_LARGE, (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def small(value: float, unit: str) -> str:
    """Write a quantity with three digits and a prefix: `small(0.00123, "J")` is "1.23 mJ"."""
    return _prefixed(value, unit, _SMALL, _SMALL[-1] if value else (1.0, ""))


def large(value: float, unit: str) -> str:
    """Write a count with three digits and a prefix: `large(4.1e9, "FLOP")` is "4.1 GFLOP"."""
    return _prefixed(value, unit, _LARGE, (1.0, ""))


def _prefixed(value: float, unit: str, prefixes: Sequence[tuple[float, str]], smallest: tuple[float, str]) -> str:
    rounded = float(f"{value:.3g}")  # first, for 999.9 mJ is 1 J
    scale, prefix = next(((s, p) for s, p in prefixes if abs(rounded) >= s), smallest)
    return f"{rounded / scale:.3g} {prefix}{unit}"
