"""Files that are either all there or as they were before, whatever ends a process and however many write."""

from __future__ import annotations

import os
import shutil
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

    Each writer has a file of its own until then: of several, the last to end wins. A link stays one, and what is no file of its
    own (a pipe, a device, `/dev/stdout`) is written to as it stands. Raises InputError where it cannot be written.
    """
    target = Path(os.path.realpath(path))
    with writing(path):
        if _stands(path) or target.is_symlink():  # a link that is left leads to itself: opening it says so
            with path.open("a", encoding="utf-8") as file:
                yield file
            return
        partial = target.with_name(f"{target.name}.{os.getpid()}-{next(_WRITERS)}.partial")
        try:
            with partial.open("w", encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


def _stands(path: Path) -> bool:
    """Whether `path` is there and nothing that a new file may take the place of."""
    return path.exists() and (not path.is_file() or path.absolute().parts[1:2] in (("dev",), ("proc",)))
