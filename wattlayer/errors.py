"""What can go wrong: one error with few leaves; each message names the value and the cure."""

from __future__ import annotations


class WattlayerError(Exception):
    """Anything a user can cause. The command line prints it as one line and exits with 2."""


class InputError(WattlayerError):
    """A value, a shape, a file or a name that a user gave cannot be used."""


class UncoveredKindError(WattlayerError):
    """`strict=True` was asked for and a layer's kind was never measured on this hardware."""


class MeterError(WattlayerError):
    """A meter is unavailable, did not advance or contradicts itself."""


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return ``"; nearest: a, b"`` for a mistyped `name`, or the whole list when it is short."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"; nearest: {', '.join(close)}"
    return f"; known: {', '.join(sorted(known))}" if len(known) <= 40 else ""


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception's text on one line of at most `limit` characters."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
