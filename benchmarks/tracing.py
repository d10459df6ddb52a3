"""Tracing against other counters and against one bare forward pass on the meta device."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timing import Row, Work, paired
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import wattlayer as wl
from wattlayer.adapters.torchvision import import_torchvision

TARGETS = {"torchinfo": "≤ 1.0", "fvcore": "≤ 0.5", "bare meta forward": "≤ 1.3"}


@dataclass(frozen=True)
class Subject:
    """A network on the meta device beside its twin with weights, and an input for each."""

    meta: nn.Module
    meta_input: torch.Tensor
    real: nn.Module
    real_input: torch.Tensor


def subject(build: Callable[[], nn.Module], sample: Callable[[], torch.Tensor]) -> Subject:
    with torch.device("meta"):
        meta, meta_input = build().eval(), sample()
    return Subject(meta, meta_input, build().eval(), sample())


def subjects() -> Iterator[tuple[str, Subject]]:
    """The four networks: batch 1, 224 x 224 images, 128 tokens."""
    models = import_torchvision().models  # first: transformers imports it too
    from transformers import BertConfig, BertModel

    for name in ("resnet50", "vit_b_16", "efficientnet_b0"):
        yield name, subject(lambda name=name: models.get_model(name, weights=None), lambda: torch.zeros(1, 3, 224, 224))
    yield "bert-base", subject(lambda: BertModel(BertConfig()), lambda: torch.zeros(1, 128, dtype=torch.long))


def contenders(x: Subject) -> dict[str, Work]:
    """Every counter on the meta device where it runs there, otherwise on weights on the CPU; those that cannot are left out."""
    on_meta = _counters(x.meta, x.meta_input)
    on_weights = _counters(x.real, x.real_input)
    found: dict[str, Work] = {
        "wattlayer": lambda: wl.trace(x.meta, x.meta_input),
        "wattlayer, cached": lambda: wl.trace(x.meta, x.meta_input, cached=True),
        "bare meta forward": lambda: _forward(x.meta, x.meta_input),
    }
    for name, work in on_meta.items():
        if _runs(work):
            found[name] = work
        elif _runs(on_weights[name]):
            found[f"{name} (with weights)"] = on_weights[name]
    return found


def _forward(module: nn.Module, sample: torch.Tensor) -> None:
    with torch.inference_mode():
        module(sample)


def _flop_counter(module: nn.Module, sample: torch.Tensor) -> None:
    with torch.inference_mode(), FlopCounterMode(display=False):
        module(sample)


def _counters(module: nn.Module, sample: torch.Tensor) -> Mapping[str, Work]:
    import torchinfo
    from calflops import calculate_flops
    from fvcore.nn import FlopCountAnalysis
    from ptflops import get_model_complexity_info

    argument = {"input_ids": sample} if sample.dtype == torch.long else {"x": sample}
    named: dict[str, Any] = argument if sample.dtype == torch.long else {_first_argument(module): sample}
    quiet = {"print_per_layer_stat": False, "verbose": False}
    return {
        "torchinfo": lambda: torchinfo.summary(module, input_data=sample, verbose=0),
        "fvcore": lambda: (
            FlopCountAnalysis(module, sample).unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()
        ),
        "ptflops": lambda: get_model_complexity_info(module, (1,), input_constructor=lambda _: named, **quiet),
        "calflops": lambda: calculate_flops(module, kwargs=dict(named), print_results=False, print_detailed=False),
        "FlopCounterMode": lambda: _flop_counter(module, sample),
    }


def _first_argument(module: nn.Module) -> str:
    import inspect

    return next(iter(inspect.signature(module.forward).parameters))


def _runs(work: Work) -> bool:
    try:
        work()
    except Exception:  # another tool's failure only decides what it is given
        return False
    return True


def rows(rounds: int) -> Iterator[Row]:
    """Time every counter on every network in the same rounds."""
    logging.disable(logging.CRITICAL)
    for name, x in subjects():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = contenders(x)
            timed = paired(found, rounds)
        yield Row("tracing", name, 1e3 * timed.median_s("wattlayer"), "ms")
        for other in [o for o in found if o != "wattlayer"]:
            target = next((t for key, t in TARGETS.items() if other.startswith(key)), "")
            against = f"{other}: {1e3 * timed.median_s(other):.1f} ms"
            yield Row("tracing", name, 1e3 * timed.median_s("wattlayer"), "ms", against, timed.ratio("wattlayer", other), target)
