"""Networks of a Python file, `path/to/file.py:factory`: the only source that runs the user's code."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import InputError, first_line
from .source import DEFAULT_IMAGE_SIZE, InputSize, Network, build, image_input

if TYPE_CHECKING:
    from torch import nn


_Files = tuple[tuple[str, int, int], ...]
"""Paths with when they were last written (ns) and how large they are (bytes)."""


def load(name: str, size: InputSize) -> Network:
    """Call the factory that `name` points to and return its network on the meta device.

    The factory takes no arguments and returns a module, (module, inputs) or (module, inputs, kwargs), where inputs is a
    tensor or a tuple and kwargs a dict. For a module alone, inputs are float images as `size` says. Raises InputError
    naming the file or the factory and the cure.
    """
    import torch

    from ..trace.meta import inputs_to_meta
    from .scopes import conversion, converted

    made: list[Any] = []
    with _beside(_path(name)):
        factory = _factory(name)
        module = build(lambda: _call(name, factory, made), size.dtype)
    assumptions = converted(conversion(made[0].parameters(), size.dtype))
    if len(made) == 1:
        return Network(name, module, (_image(name, size),), assumptions=assumptions)
    args, kwargs = inputs_to_meta(_arguments(name, made), getattr(torch, size.dtype))
    _refuse_sizes(name, args, kwargs, size)
    return Network(name, module, args, kwargs, assumptions)


def _path(name: str) -> str:
    """The file that a name begins with; raise InputError where there is none."""
    path = name.rpartition(":")[0]
    if not path.endswith(".py"):
        raise InputError(f"{name}: name the function that returns the network, as in {name}:build")
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file")
    return path


def _factory(name: str) -> Any:
    path, _, attribute = name.rpartition(":")
    module = _import(path)
    if not hasattr(module, attribute):
        own = [key for key, x in vars(module).items() if callable(x) and getattr(x, "__module__", None) == module.__name__]
        raise InputError(f"{path} has no {attribute!r}; it has: {', '.join(own) or 'no function'}")
    return getattr(module, attribute)


_IMPORTING = RLock()
"""Held while a file and its factory run: what can be imported belongs to the process."""
os.register_at_fork(before=_IMPORTING.acquire, after_in_parent=_IMPORTING.release, after_in_child=_IMPORTING.release)
_LONGEST_WAIT_S = 600.0
"""For the factories of other threads, which may themselves wait for this one."""
_BROUGHT: dict[str, tuple[Path, _Files]] = {}
"""What files imported from beside them, by the first part of its name: the folder, and its files as they were."""


@contextmanager
def _beside(path: str) -> Iterator[None]:
    """Let a file and its factory import files beside it, as under `python file.py`.

    What files in other folders brought under names that this folder has too, and what has changed since, is forgotten before.
    Raises InputError where another thread's factory takes too long.
    """
    folder = Path(path).resolve().parent
    if not _IMPORTING.acquire(timeout=_LONGEST_WAIT_S):
        raise InputError(f"{path} waited {_LONGEST_WAIT_S:.0f} s for the factory of another file: load them in turn")
    try:
        for top, (home, files) in list(_BROUGHT.items()):
            if _files_of(top) != files or (home != folder and _has(folder, top)):
                del _BROUGHT[top]
                for name in [x for x in list(sys.modules) if x.partition(".")[0] == top]:
                    del sys.modules[name]
        before = set(sys.modules)
        sys.path.insert(0, str(folder))
        try:
            yield
        finally:
            with suppress(ValueError):
                sys.path.remove(str(folder))  # the first, wherever the file put others
            new = {x.partition(".")[0] for x in set(sys.modules) - before} - before  # not modules within what was there
            for top in new | _BROUGHT.keys():
                if _stands_in(folder, sys.modules.get(top)):
                    _BROUGHT[top] = folder, _files_of(top)
    finally:
        _IMPORTING.release()


def _files_of(top: str) -> _Files:
    """The files of a module and of those within it."""
    modules = [x for name, x in list(sys.modules.items()) if name.partition(".")[0] == top]
    files = sorted(str(file) for x in modules if (file := getattr(x, "__file__", None)) is not None)
    found = []
    for file in files:
        with suppress(OSError):
            stat = os.stat(file)
            found.append((file, stat.st_mtime_ns, stat.st_size))
    return tuple(found)


def _has(folder: Path, top: str) -> bool:
    return (folder / f"{top}.py").exists() or (folder / top).is_dir()


def _stands_in(folder: Path, module: ModuleType | None) -> bool:
    """Whether a module is a file or a package of the folder itself; a library installed somewhere below it is none."""
    file = getattr(module, "__file__", None)
    packages = [Path(x) for x in getattr(module, "__path__", ())]
    return folder in ([x.parent for x in packages] if packages or file is None else [Path(file).absolute().parent])


def _import(path: str) -> ModuleType:
    """Run a file as a module, which is known to Python by a name of its own meanwhile."""
    spec = importlib.util.spec_from_file_location(f"_{Path(path).stem}_of_wattlayer", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: Python cannot load this file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} cannot be imported: {type(error).__name__}: {first_line(error)}") from error
    return module


def _call(name: str, factory: Any, made: list[Any]) -> nn.Module:
    """Return the factory's module, and put all that it returned on `made`."""
    import torch

    try:
        result = factory() if callable(factory) and not isinstance(factory, torch.nn.Module) else factory
    except (Exception, SystemExit) as error:
        unmade = re.search(r"\bmeta (tensor|device)|\bdevice.*\bmeta\b", str(error))
        cure = "; its weights are not made, build what computes with them under torch.device('cpu')" if unmade else ""
        raise InputError(f"{name} failed: {type(error).__name__}: {first_line(error)}{cure}") from error
    made.extend(result if isinstance(result, tuple | list) else [result])
    if not 1 <= len(made) <= 3 or not isinstance(made[0], torch.nn.Module):
        what = ", ".join(type(x).__name__ for x in made) or "nothing"
        raise InputError(f"{name} returned {what}: return a module, (module, inputs) or (module, inputs, kwargs)")
    return made[0]


def _arguments(name: str, made: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    inputs, kwargs = made[1], made[2] if len(made) == 3 else {}
    if not isinstance(kwargs, dict):
        raise InputError(f"{name} returned keyword arguments of type {type(kwargs).__name__}: return a dict")
    # a named tuple (a packed sequence, say) is one input
    several = isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields")
    return tuple(inputs) if several else (inputs,), kwargs


def _image(name: str, size: InputSize) -> Any:
    if size.shape is None:
        return image_input(size, name, (3, DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE))
    import torch

    return torch.empty(size.shape, dtype=getattr(torch, size.dtype), device="meta")


def _refuse_sizes(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], size: InputSize) -> None:
    """A size that the factory's own inputs do not have must not be dropped silently."""
    import torch
    from torch.utils._pytree import tree_leaves

    for option in ("image_size", "seq_len", "shape"):
        size.refuse(option, name, "the inputs that its factory returns")
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.dim()]
    if size.batch > 1 and tensors and tensors[0].shape[0] != size.batch:
        raise InputError(f"batch {size.batch}: {name} returns its own inputs, of batch {tensors[0].shape[0]}: change it there")
