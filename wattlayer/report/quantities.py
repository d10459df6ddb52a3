"""Quantities as people read them: three digits and a prefix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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


def decimal(value: float, digits: int = 3) -> str:
    """Write a number with so many digits and without an exponent: `decimal(0.0000123)` is "0.0000123", 12345 is "12,300"."""
    text = np.format_float_positional(float(f"{value:.{digits}g}"), trim="-")
    whole, point, rest = text.partition(".")
    return f"{int(whole):,}{point}{rest}"


def share(frac: float) -> str:
    """Write a share in percent: "12.3%"; "<0.1%" and ">99.9%" where nothing and all would not be true."""
    if 0 < frac < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= frac < 1 else f"{frac:.1%}"


def money(value: float, currency: str) -> str:
    """Write an amount: as it is from a thousandth on, with a prefix below, where zeros would be miscounted."""
    return f"{decimal(value)} {currency}" if abs(value) >= 0.001 or not value else small(value, currency)


def between(low_frac: float | None, high_frac: float | None) -> str:
    """Write the bounds of a share in percent: "6.9–8.4%"; "" where they are unknown."""
    return "" if low_frac is None or high_frac is None else f"{100 * low_frac:.1f}–{high_frac:.1%}"
