"""Files that are either all there or as they were before, whatever ends a process and however many write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TextIO

from .errors import writing

_WRITERS = count()
"""Of this process."""


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Yield a text file that takes the place of `path` once it is complete and on the disk.

    Each writer has a file of its own until then: of several, the last to end wins. A link stays one, and what is no file (a
    pipe, a device) is written to as it stands. Raises InputError where it cannot be written.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f"{target.name}.{os.getpid()}-{next(_WRITERS)}.partial")
    with writing(path):
        if target.exists() and not target.is_file():
            with target.open("w", encoding="utf-8") as file:
                yield file
            return
        try:
            with partial.open("w", encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
