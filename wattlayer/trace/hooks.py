"""Hooks around a forward pass: which module runs, whether it asks for autocast, and attention on its fast paths as on devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch.nn.attention.bias import CausalBias
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import backend_registration
from torch.utils._python_dispatch import _disable_current_modes

from .meta import TORCH_STATE


@contextmanager
def module_paths(module: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep the path of the running module on top of `stack`; one that several others share is named by the one that calls it."""
    names = {id(m): name for name, m in module.named_modules()}
    below: dict[int, dict[int, str]] = {}
    running: list[nn.Module] = []

    def path(m: nn.Module) -> str:
        caller = running[-1] if running else module
        if id(caller) not in below:
            below[id(caller)] = {id(x): name for name, x in caller.named_modules()}
        name = below[id(caller)].get(id(m))
        return names[id(m)] if name is None else ".".join(x for x in (stack[-1], name) if x)

    def enter(m: nn.Module, _: Any) -> None:
        if id(m) in names:
            stack.append(path(m))
            running.append(m)

    def leave(m: nn.Module, _: Any, __: Any) -> None:
        # a child that raised never left: where its parent caught the error, both entries go
        while id(m) in names and running and running.pop() is not m:
            stack.pop()
        if id(m) in names:
            stack.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def noted_autocast(note: Callable[[], None]) -> Iterator[None]:
    """Call `note` where a forward asks for autocast: a dispatch mode runs below it, and without CUDA torch makes one that is off.

    Where a decorator or a module made it before, what was asked for is lost with that: it is taken for on.
    """
    make, enter, owner = torch.autocast.__init__, torch.autocast.__enter__, get_ident()
    made: dict[int, Any] = {}

    def noted(self: Any, device_type: str, dtype: Any = None, enabled: bool = True, *rest: Any, **named: Any) -> None:
        if get_ident() == owner:  # not what another thread runs meanwhile
            made[id(self)] = self
            if enabled:
                note()
        if device_type == "meta" and get_ident() == owner:  # that of a network's own tensors, which torch knows no autocast of
            device_type, enabled = "cpu", False
        make(self, device_type, dtype, enabled, *rest, **named)

    def entered(self: Any) -> Any:
        lost = self.device == "cuda" and not torch.cuda.is_available()
        if get_ident() == owner and id(self) not in made and (self._enabled or lost):
            note()
        return enter(self)

    torch.autocast.__init__, torch.autocast.__enter__ = noted, entered  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__init__, torch.autocast.__enter__ = make, enter  # type: ignore[method-assign]


def within_autocast() -> bool:
    """Whether this thread is within autocast, also one that torch turned off for want of CUDA: of that only the depth tells."""
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return any(map(torch.is_autocast_enabled, ("cuda", "cpu"))) or (depth > 1 and not torch.cuda.is_available())


@contextmanager
def causal_masks() -> Iterator[None]:
    """Let a forward make masks of `torch.nn.attention.bias`: torch cannot make them of what a dispatch mode returns."""

    def make(kind: Any, *sizes: int) -> Any:
        with _disable_current_modes():  # those of this thread
            return torch.Tensor.__new__(kind, *sizes)

    before = vars(CausalBias).get("__new__")  # which it inherits, but within another trace
    CausalBias.__new__ = make  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        if before is None:
            del CausalBias.__new__
        else:
            CausalBias.__new__ = before  # type: ignore[method-assign]


class _MetaForOne(str):
    """A name of the device type that PyTorch leaves to others' backends, which for one thread "meta" is as well."""

    thread: int

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other) or (other == "meta" and get_ident() == self.thread)

    __hash__ = str.__hash__


@contextmanager
def attention_as_on_devices(module: nn.Module) -> Iterator[None]:
    """Let attention and encoder layers take on meta tensors the fast paths that they take on devices, by PyTorch's conditions.

    One of them is that no function mode is on, which `KnownIndices` is: it has nothing to do within. Another is the type of
    device, of which one is free; encoders, which look for it as well, would pack rows by values that are not known. Other
    threads see neither.
    """
    fast = {id(m) for m in module.modules() if _has_fast_path(m)}
    within: list[tuple[Any, str]] = []
    free = _MetaForOne(backend_registration._privateuse1_backend_name)
    free.thread = get_ident()

    def enter(m: nn.Module, _: Any) -> None:
        if id(m) in fast:
            within.append((torch._C.DisableTorchFunction(), backend_registration._privateuse1_backend_name))
            within[-1][0].__enter__()
            backend_registration._privateuse1_backend_name = free

    def leave(m: nn.Module, _: Any, __: Any) -> None:
        if id(m) in fast:
            mode, backend_registration._privateuse1_backend_name = within.pop()
            mode.__exit__(None, None, None)

    with TORCH_STATE:
        handles = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            while within:  # hooks are passed over by what is no Exception, such as Ctrl-C
                mode, backend_registration._privateuse1_backend_name = within.pop()
                mode.__exit__(None, None, None)
            for handle in handles:
                handle.remove()


def _has_fast_path(m: nn.Module) -> bool:
    """Whether a module asks for one: attention, and encoder layers as PyTorch wrote them, with an activation that it knows."""
    if isinstance(m, nn.TransformerEncoderLayer):
        return type(m).forward is nn.TransformerEncoderLayer.forward and m.activation_relu_or_gelu > 0
    return isinstance(m, nn.MultiheadAttention)


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Keep `nn.MultiheadAttention` from its fast path: each of its operators is called by itself."""
    with TORCH_STATE:
        enabled = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(enabled)
