"""Cells of a table as numbers, shapes and flags; what does not fit is told with the column's name."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...errors import InputError


def positive(row: Mapping[str, str], column: str) -> float:
    """Return a finite number above 0."""
    value = _number(row, column)
    if not math.isfinite(value) or value <= 0:
        raise InputError(f"{column} {row[column]!r} must be a finite number above 0")
    return value


def whole(row: Mapping[str, str], column: str, least: int = 0) -> int:
    """Return a whole number of at least `least` (also written 3.0)."""
    value = _number(row, column)
    if not (least <= value < 2**53 and value == int(value)):
        raise InputError(f"{column} {row[column]!r} is not a whole number of at least {least}")
    return int(value)


def _number(row: Mapping[str, str], column: str) -> float:
    if column not in row:
        raise InputError(f"the table has no column {column}, which this row needs")
    try:
        return float(row[column])
    except ValueError:
        raise InputError(f"{column} {row[column]!r} is not a number") from None


def shapes(text: str) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of `32x3x224x224`, several separated by `;`."""
    try:
        parsed = tuple(tuple(int(n) for n in part.strip().split("x")) for part in text.split(";"))
    except ValueError:
        raise InputError(f"input_shape {text!r} is not like 32x3x224x224") from None
    if any(n < 1 for shape in parsed for n in shape):
        raise InputError(f"input_shape {text!r} has a size below 1")
    return parsed


def truth(row: Mapping[str, str], column: str) -> bool:
    """Return an optional true/false column; absent or empty is False."""
    text = row.get(column, "").lower()
    if text in ("", "false", "0", "no"):
        return False
    if text in ("true", "1", "yes"):
        return True
    raise InputError(f"{column} {row[column]!r} is neither true nor false")
