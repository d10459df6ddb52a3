"""A network, how it runs, and what may be changed about either: traced again after every edit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, check_whole, first_line
from ..layer import format_shape
from ..predict import load_network, trace_network
from ..trace import Trace
from ..trace.folding import folded
from ..trace.rewrite import aligned, fused, trace_as

if TYPE_CHECKING:
    from torch import nn

    from ..adapters import Network


@dataclass(frozen=True)
class Setting:
    """How a network runs, in the words of `predict`; None means the network's own default."""

    batch: int = 1
    image_size: int | None = None
    seq_len: int | None = None
    input: tuple[int, ...] | None = None
    dtype: str | None = None
    tf32: str = "conv"
    mode: str = "graph"

    def after(self, edit: Edit) -> Setting:
        """Return the setting that `edit` leads to; a shape in `input` follows batch, image size and length."""
        names = ("batch", "image_size", "seq_len", "dtype", "tf32", "mode")
        given = {name: value for name in names if (value := getattr(edit, name)) is not None}
        if self.input is None:
            return replace(self, **given)
        given.pop("image_size", None)
        given.pop("seq_len", None)
        _check_sizes([self.input], edit)
        return replace(self, **given, input=resized(self.input, edit))


def replacements(patterns: Mapping[str, str] | Iterable[str | tuple[str, str]] | str) -> tuple[tuple[str, str], ...]:
    """Return (pattern, recipe) pairs of a mapping, pairs, or texts `layer3.*=depthwise` or one; raise InputError for others."""
    pairs: list[tuple[str, str]] = []
    for given in patterns.items() if isinstance(patterns, Mapping) else _several("replace", patterns):
        pair = given.rpartition("=")[::2] if isinstance(given, str) else given
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(x, str) and x for x in pair):
            raise InputError(f"replace {given!r} is not written PATTERN=RECIPE, like 'layer3.*=depthwise'")
        pairs.append((pair[0], pair[1]))
    return tuple(pairs)


def _several(name: str, given: Any) -> tuple[Any, ...]:
    """One text or several of them; raise InputError for what is neither."""
    if not isinstance(given, Iterable):
        raise InputError(f"{name} {given!r} is no text and no list of texts: write one, like 'layer4'")
    return (given,) if isinstance(given, str) else tuple(given)


@dataclass(frozen=True)
class Edit:
    """What changes; None and empty leave things as they are. Raises InputError for sizes below 1."""

    replace: tuple[tuple[str, str], ...] = ()
    """(pattern of module paths, recipe of `edits.RECIPES`), or what `replacements` reads as such pairs."""
    drop: tuple[str, ...] = ()
    """Patterns of module paths, or one."""
    dtype: str | None = None
    tf32: str | None = None
    mode: str | None = None
    batch: int | None = None
    image_size: int | None = None
    seq_len: int | None = None
    align: bool = False
    """Pad channels to multiples of 8."""
    fuse_attention: bool = False
    fold_norm: bool = False
    """Fold batch norms into the convolutions before them."""

    def __post_init__(self) -> None:
        for name in ("batch", "image_size", "seq_len"):
            if (size := getattr(self, name)) is not None:
                check_whole(name.replace("_", "-"), size)
        object.__setattr__(self, "replace", replacements(self.replace))
        object.__setattr__(self, "drop", _several("drop", self.drop))
        if not all(isinstance(x, str) for x in self.drop):
            raise InputError(f"drop {self.drop!r} holds what is no pattern of module paths: write texts, like 'layer4'")

    def describe(self) -> str:
        """Say the edit as the options of `wattlayer whatif`."""
        parts = [f"--replace '{pattern}={recipe}'" for pattern, recipe in self.replace]
        parts += [f"--drop '{pattern}'" for pattern in self.drop]
        names = ("dtype", "tf32", "mode", "batch", "image_size", "seq_len")
        parts += [f"--{name.replace('_', '-')} {getattr(self, name)}" for name in names if getattr(self, name) is not None]
        parts += ["--align"] * self.align + ["--fuse-attention"] * self.fuse_attention
        parts += ["--fold-norm"] * self.fold_norm
        return " ".join(parts)


UNCHANGED = Edit()
"""The edit that leaves everything as it is."""


def resized(shape: tuple[int, ...], edit: Edit) -> tuple[int, ...]:
    """Return an input's shape under `edit`: axis 0 is the batch, an image's last two its edges, axis 1 of text its length."""
    if edit.batch is not None and shape:
        shape = (edit.batch, *shape[1:])
    if edit.image_size is not None and _is_image(shape):
        shape = (*shape[:-2], edit.image_size, edit.image_size)
    if edit.seq_len is not None and _is_text(shape):
        shape = (shape[0], edit.seq_len)
    return shape


def _is_image(shape: Sequence[int]) -> bool:
    return len(shape) >= 4


def _is_text(shape: Sequence[int]) -> bool:
    return len(shape) == 2


def _check_sizes(shapes: Sequence[Sequence[int]], edit: Edit) -> None:
    """Raise InputError where `edit` says a size that none of the inputs, of `shapes`, has."""
    for name, size, has, those in (
        ("image-size", edit.image_size, _is_image, "images have at least four axes"),
        ("seq-len", edit.seq_len, _is_text, "texts have two axes"),
    ):
        if size is not None and not any(map(has, shapes)):
            told = ", ".join(format_shape(shape) for shape in shapes[:3]) or "none"
            more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
            raise InputError(f"{name} {size} changes no input (of shape {told}{more}): {those}, the batch first; leave it out")


@dataclass(frozen=True)
class Subject:
    """A network that can be traced again after a change: its name, or a module with its inputs and keyword arguments."""

    network: str | nn.Module
    inputs: tuple[Any, ...] = ()
    setting: Setting = Setting()
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, tuple | list):  # one tensor would be taken for a list of its samples
            object.__setattr__(self, "inputs", (self.inputs,))

    def trace(self, edit: Edit = UNCHANGED) -> Trace:
        """Trace the network as `edit` leaves it; raise InputError where that does not run."""
        loaded = self.load(edit)
        setting = self.setting.after(edit)
        try:
            traced = trace_network(loaded, setting.tf32) if isinstance(self.network, str) else self._trace_module(loaded, edit)
        except InputError as error:
            if edit.drop or edit.replace:
                raise InputError(f"after {edit.describe()} the network does not run: {first_line(error)}") from error
            raise
        traced = aligned(traced) if edit.align else traced
        # a compiler folds them itself, and asks what feeds what
        traced = folded(traced) if edit.fold_norm and setting.mode != "compiled" else traced
        return fused(traced) if edit.fuse_attention else traced

    def load(self, edit: Edit = UNCHANGED) -> Network:
        """Return the network as `edit` leaves it, with its inputs, before tracing."""
        from ..adapters import Network

        if isinstance(self.network, str):
            s = self.setting.after(edit)
            loaded = load_network(self.network, s.batch, s.image_size, s.seq_len, s.input, s.dtype or "float32")
        else:
            args, kwargs = _resize_tensors((self.inputs, dict(self.kwargs)), edit)
            loaded = Network(type(self.network).__name__, self.network, args, kwargs)
        if not edit.replace and not edit.drop:
            return loaded
        from ..trace.meta import to_meta
        from .edits import edited

        return replace(loaded, module=edited(to_meta(loaded.module), edit.replace, edit.drop))

    def _trace_module(self, loaded: Network, edit: Edit) -> Trace:
        s = self.setting.after(edit)
        return trace_as(s.dtype, loaded.module, *loaded.args, kwargs=loaded.kwargs, tf32=s.tf32, network=loaded.name)


def _resize_tensors(inputs: tuple[Any, ...], edit: Edit) -> tuple[Any, ...]:
    if edit.batch is None and edit.image_size is None and edit.seq_len is None:
        return inputs
    import torch
    from torch.utils._pytree import tree_leaves, tree_map

    _check_sizes([x.shape for x in tree_leaves(inputs) if isinstance(x, torch.Tensor)], edit)

    def resize(x: Any) -> Any:
        return torch.empty(resized(tuple(x.shape), edit), dtype=x.dtype, device="meta") if isinstance(x, torch.Tensor) else x

    result: tuple[Any, ...] = tree_map(resize, inputs)
    return result


def subject_of(network: str | Path | Subject) -> Subject:
    """Return a named network as a Subject at its own sizes; raise InputError for what is neither, such as a module alone."""
    if isinstance(network, Subject):
        return network
    if isinstance(network, str | Path):
        return Subject(str(network))
    raise InputError(f"{type(network).__name__} is no network's name: give a module with its inputs, Subject(module, (x,))")
