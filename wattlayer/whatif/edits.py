"""Changing a network before it is traced: modules replaced by recipes, modules dropped. The given network is copied."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..errors import InputError, nearest

Recipe = Callable[[nn.Module], nn.Module | None]
"""Returns what stands in for a module, or None where the recipe does not apply to it."""

RANK_FRAC = 0.25
"""Rank that `lowrank` keeps, as a share of a matrix's smaller side: a square one does half of its FLOP then."""
LEAST_RANK = 8
"""Layers are left as they are for less: tensor cores take as many channels at once (`trace.rewrite.ALIGNMENT`)."""


class Pass(nn.Module):
    """Stands in for a dropped module: returns its first input, and keeps the plain attributes that others read."""

    def __init__(self, dropped: nn.Module) -> None:
        super().__init__()
        plain = {k: v for k, v in vars(dropped).items() if isinstance(v, bool | int | float | str) and k != "training"}
        vars(self).update(plain)

    def forward(self, first: Any, *_: Any, **__: Any) -> Any:
        return first


def depthwise(module: nn.Module) -> nn.Module | None:
    """A convolution with a window as a depthwise and a pointwise one (Howard et al. 2017, MobileNets, section 3.1)."""
    if not isinstance(module, nn.Conv2d) or module.groups > 1 or max(module.kernel_size) == 1:
        return None
    like = {"device": module.weight.device, "dtype": module.weight.dtype}
    width, window = module.in_channels, module.kernel_size
    slide = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
    each = nn.Conv2d(width, width, window, **slide, groups=width, bias=False, **like)  # type: ignore[arg-type]
    return nn.Sequential(each, nn.Conv2d(width, module.out_channels, 1, bias=module.bias is not None, **like))  # type: ignore[arg-type]


def lowrank(module: nn.Module) -> nn.Module | None:
    """A linear layer as two, through `RANK_FRAC` of its smaller side (a truncated singular value decomposition's form), from
    `LEAST_RANK` on."""
    if not isinstance(module, nn.Linear):
        return None
    rank = int(min(module.in_features, module.out_features) * RANK_FRAC)
    if rank < LEAST_RANK:
        return None
    like: dict[str, Any] = {"device": module.weight.device, "dtype": module.weight.dtype}
    first = nn.Linear(module.in_features, rank, bias=False, **like)
    return nn.Sequential(first, nn.Linear(rank, module.out_features, bias=module.bias is not None, **like))


def relu(module: nn.Module) -> nn.Module | None:
    """An activation that needs an exponential (SiLU, GELU, Hardswish, Mish, by the name of its class) as ReLU."""
    name = type(module).__name__.lower()
    smooth = any(x in name for x in ("silu", "gelu", "swish", "mish")) and "mul" not in name
    return nn.ReLU() if smooth and not list(module.children()) else None


RECIPES: dict[str, Recipe] = {"depthwise": depthwise, "lowrank": lowrank, "relu": relu}
"""What `--replace PATTERN=RECIPE` knows."""


def edited(module: nn.Module, replace: Sequence[tuple[str, str]], drop: Sequence[str]) -> nn.Module:
    """Return a copy of `module` after all (pattern, recipe) replacements and then all drops.

    Patterns are module paths with `*`, `?` and `[…]`; each holds for the modules that it names and for all inside them.
    Raises InputError for an unknown recipe and for a pattern that changes nothing.
    """
    changed = copy.deepcopy(module)
    for pattern, recipe in replace:
        _replace(changed, pattern, recipe)
    for pattern in drop:
        _drop(changed, pattern)
    return changed


def _replace(module: nn.Module, pattern: str, recipe: str) -> None:
    if recipe not in RECIPES:
        raise InputError(f"recipe {recipe!r} is not known{nearest(recipe, list(RECIPES))}; write --replace 'layer3.*=depthwise'")
    inside = list(_inside(module, pattern))
    made = {id(old): RECIPES[recipe](old) for _, old in inside}  # what several hold stays one
    found = [(path, new) for path, old in inside if (new := made[id(old)]) is not None]
    if not found:
        raise InputError(f"{pattern!r} holds {len(inside)} modules, none that {recipe} applies to")
    for path, new in found:
        module.set_submodule(path, new.eval())


def _drop(module: nn.Module, pattern: str) -> None:
    named = [(path, old) for path, old in _named(module) if fnmatchcase(path, pattern)]
    if not named:
        raise InputError(_no_module(module, pattern))
    for path, old in named:
        if not any(path.startswith(f"{outer}.") for outer, _ in named):
            module.set_submodule(path, Pass(old).eval())


def _inside(module: nn.Module, pattern: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the named modules that `pattern` names and all inside them."""
    named = _named(module)
    roots = {path for path, _ in named if fnmatchcase(path, pattern)}
    if not roots:
        raise InputError(_no_module(module, pattern))
    for path, old in named:
        parts = path.split(".")
        if any(".".join(parts[:n]) in roots for n in range(1, len(parts) + 1)):
            yield path, old


def _named(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """All modules below `module` by path; one that several hold, such as an activation, has a path in each."""
    return [(path, old) for path, old in module.named_modules(remove_duplicate=False) if path]


def _no_module(module: nn.Module, pattern: str) -> str:
    told = nearest(pattern, [path for path, _ in _named(module)]) or "; `wattlayer trace` lists their paths"
    return f"{type(module).__name__} has no module {pattern!r}{told}"
