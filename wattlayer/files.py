"""A user's own files: where they live, and writing them so that they are all there or as they were before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, EBUSY, EPERM
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import TextIO

from .errors import writing

_WRITERS = count()
"""Of this process."""


@contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """Yield a text file that takes the place of `path` once it is complete and on the disk.

    Each writer has a file of its own until then: of several, the last to end wins. A link stays one. What is no file of its own
    (a pipe, a device, `/dev/stdout`) or lies in a folder that takes no other is written to as it stands, and what nothing may
    take the place of (a file mounted by itself) at the end. Raises InputError where it cannot be written.
    """
    target = Path(os.path.realpath(path))
    with writing(path):
        if _stands(path) or target.is_symlink():  # a link that is left leads to itself: opening it says so
            with path.open("a", encoding="utf-8") as file:
                yield file
            return
        if target.is_file() and not os.access(target.parent, os.W_OK):  # nothing can stand beside it meanwhile
            with target.open("w", encoding="utf-8") as file:
                yield file
            return
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(EACCES, os.strerror(EACCES))
        # processes of two containers have equal numbers, and names have an end
        partial = target.with_name(f"{target.name[:100]}.{os.getpid()}-{next(_WRITERS)}-{token_hex(4)}.partial")
        try:
            with partial.open("x", encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, partial)
            _put(partial, target)
        finally:
            partial.unlink(missing_ok=True)


def _put(partial: Path, target: Path) -> None:
    try:
        os.replace(partial, target)
    except OSError as error:
        if error.errno not in (EBUSY, EACCES, EPERM) or not target.is_file():
            raise
        shutil.copyfile(partial, target)


def _stands(path: Path) -> bool:
    """Whether `path` is there and nothing that a new file may take the place of."""
    return path.exists() and (not path.is_file() or path.absolute().parts[1:2] in (("dev",), ("proc",)))


def user_folder() -> Path:
    """Return the folder of this user's models and devices; it need not exist.

    `WATTLAYER_HOME` where it is set, else the platform's place for an application's data; where a user has no home (a container
    that runs as a number), a place where nothing can be.
    """
    if home := os.environ.get("WATTLAYER_HOME"):
        return Path(home)
    try:
        return _data_folder() / "wattlayer"
    except RuntimeError:  # what pathlib and platformdirs say of no home
        return Path(os.devnull) / "wattlayer"


def _data_folder() -> Path:
    try:
        from platformdirs import user_data_path
    except ImportError:  # measuring works from a checkout, with torch, numpy and a meter's library alone; this is Linux's place
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return user_data_path(appauthor=False)
