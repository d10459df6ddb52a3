"""Where networks come from: `resolve` finds the source that a MODEL argument names. Nothing is imported before its use."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from ..errors import InputError, nearest
from .source import InputSize, Network, UnusedSize

__all__ = ["SOURCES", "InputSize", "Network", "UnusedSize", "names_of", "resolve", "runs_code"]

SOURCES = {"torchvision": "torchvision", "timm": "timm", "hf": "huggingface", "diffusers": "diffusers"}
"""Prefix of a network's name, and the module here that loads it."""

FILES = {".onnx": "onnx", ".pt2": "pt2"}
"""Ending of a network's file, and the module here that reads it."""

REFUSED_FILES = dict.fromkeys((".pt", ".pth", ".ts", ".torchscript", ".ckpt", ".bin"), "such a file is code or pickled weights")
"""Endings of files that are not opened: reading TorchScript or a pickle can run what is in it."""

CATALOGUES = ("torchvision", "timm")
"""Where a bare name is looked up, in this order."""


def resolve(name: str, size: InputSize) -> Network:
    """Return the network that `name` stands for, on the meta device, with inputs of `size`.

    `torchvision:NAME`, `timm:NAME`, `hf:ID|config.json|FOLDER|MODEL_TYPE`, `diffusers:CLASS|config.json`,
    `path/to/file.py:FACTORY`, `net.onnx`, `net.pt2`,
    or a bare NAME of torchvision or, after it, timm. Raises InputError naming the value and the cure.
    """
    prefix, separator, rest = name.partition(":")
    if size.sizes and Path(name).suffix.lower() not in FILES:
        raise InputError(f"input {size.sizes_text} names sizes of a file, which {name} is not: write a shape like 8x3x224x224")
    if separator and prefix in SOURCES:
        return _source(SOURCES[prefix]).load(rest, size)
    if runs_code(name):
        return _source("pyfile").load(name, size)
    suffix = Path(name).suffix.lower()
    if suffix in FILES:
        return _source(FILES[suffix]).load(name, size)
    if suffix in REFUSED_FILES:
        raise InputError(f"{name}: {REFUSED_FILES[suffix]}; export it with torch.onnx.export or torch.export.save")
    if name.endswith("config.json") or "/" in name:
        raise InputError(f"{name!r} is no network of torchvision or timm; a Hugging Face config or id is written hf:{name}")
    if separator:
        raise InputError(f"{name!r}: there is no source {prefix!r}; known: {', '.join(SOURCES)}, path/to/file.py:factory")
    return _bare(name, size)


def runs_code(name: str) -> bool:
    """Whether to load the network that `name` stands for is to run a Python file."""
    return name.partition(":")[0] not in SOURCES and (name.endswith(".py") or ".py:" in name)


def names_of(prefix: str) -> list[str]:
    """Return the names that the source `prefix`, one of SOURCES, knows without a file or the network."""
    return list(_source(SOURCES[prefix]).names())


def _bare(name: str, size: InputSize) -> Network:
    installed = [catalogue for catalogue in CATALOGUES if find_spec(catalogue)]
    if not installed:
        raise InputError(f"{name}: neither torchvision nor timm is installed: pip install 'wattlayer[torchvision]'")
    known: list[str] = []
    for catalogue in installed:
        source = _source(catalogue)
        names = source.names()
        if name in names or (catalogue == "timm" and name.partition(".")[0] in names):
            return source.load(name, size)
        known += names
    missing = [f" ({x} is not installed: pip install 'wattlayer[{x}]')" for x in CATALOGUES if x not in installed]
    others = "; others are written hf:ID, path/to/file.py:factory, net.onnx or net.pt2"
    told = nearest(name, list(dict.fromkeys(known)), others)
    raise InputError(f"{name!r} is no network of {' or '.join(installed)}{told}{''.join(missing)}")


def _source(module: str) -> ModuleType:
    return importlib.import_module(f".{module}", __package__)
