"""Keeping warnings of libraries to ourselves without taking the process's own filters along."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_LOCK = Lock()
_INSIDE: list[warnings.catch_warnings[None] | None] = []
"""One for each that is quiet now; the first holds the filters of before."""


@contextmanager
def quiet(category: type[Warning] = Warning) -> Iterator[None]:
    """Ignore warnings of `category` meanwhile.

    Filters belong to the process, and `warnings.catch_warnings` in two threads at once leaves those of one to the other for good:
    here the first to come keeps them and the last to go puts them back.
    """
    with _LOCK:
        before = None if _INSIDE else warnings.catch_warnings()
        if before is not None:
            before.__enter__()
        _INSIDE.append(before)
        warnings.simplefilter("ignore", category)
    try:
        yield
    finally:
        with _LOCK:
            before = _INSIDE.pop()
            if before is not None:
                before.__exit__(None, None, None)
