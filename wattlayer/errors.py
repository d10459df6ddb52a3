"""What can go wrong: one error with few leaves; each message names the value and the cure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any


class WattlayerError(Exception):
    """Anything a user can cause. The command line prints it as one line and exits with 2."""


class InputError(WattlayerError):
    """A value, a shape, a file or a name that a user gave cannot be used."""


class UncoveredKindError(WattlayerError):
    """`strict=True` was asked for and a layer's kind was never measured on this hardware."""


class MeterError(WattlayerError):
    """A meter is unavailable, did not advance or contradicts itself."""


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raise InputError naming `path` where writing there meets an operating system's error."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


MOST_SEED = 2**32 - 1
"""The largest that NumPy's and scikit-learn's generators of random numbers all take."""


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise InputError for what is no whole number of at least `least`; 2.0 and True are none, which caches take for 2 and 1."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"{name} {value!r} is not a whole number")
    if value < least:
        raise InputError(f"{name} {value} must be at least {least}")


def check_jobs(n_jobs: int) -> None:
    """Raise InputError for what is no number of processes as joblib takes it, where -1 stands for every core."""
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs == 0:
        raise InputError(f"jobs {n_jobs!r} must be at least 1, or -1 for every core")


def check_seed(seed: int) -> int:
    """Return `seed`, or raise InputError for one that no generator of random numbers takes."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise InputError(f"seed {seed!r} is not a whole number")
    if not 0 <= seed <= MOST_SEED:
        raise InputError(f"seed {seed} must be between 0 and {MOST_SEED}")
    return seed


MOST_BEGUN = 6
"""So many names that begin as was typed are told."""


def nearest(name: str, known: list[str] | tuple[str, ...], otherwise: str = "") -> str:
    """Return ``"; nearest: a, b"`` for a mistyped `name`, those that begin so first, the whole list when it is short, or what
    says it `otherwise`."""
    from difflib import get_close_matches

    begun = [x for x in known if name and x.lower().startswith(name.lower())][:MOST_BEGUN]
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    if begun or close:
        return f"; nearest: {', '.join(dict.fromkeys([*begun, *close]))}"
    return f"; known: {', '.join(sorted(known))}" if len(known) <= 40 else otherwise


def first_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception's text on one line of at most `limit` characters."""
    try:
        text = str(error)
    except Exception:  # somebody else's exception, which cannot even say what it is
        text = ""
    return " ".join(text.split())[:limit] or type(error).__name__
