"""Configurations that leave out what their network needs: what follows by convention is filled in, the rest is named."""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Iterator
from types import FrameType
from typing import Any

FORECAST_STEPS = 24
"""Steps that a time-series network forecasts where its configuration does not say: a day of hours, as in its documentation."""


def parts(config: Any) -> Iterator[Any]:
    """Yield a configuration and, where it has them, those of its parts."""
    yield config
    for key in getattr(config, "sub_configs", ()):
        part = getattr(config, key, None)
        if part is not None:
            yield from parts(part)


CONVENTION = (
    "its configuration leaves sizes of attention heads unset: taken as hidden size over heads, as many key as query heads"
)


def set_forecast(config: Any, steps: int | None) -> tuple[str, ...]:
    """Say how many steps a time-series network forecasts, and from how many (as many, its documented default).

    Returns what was assumed: nothing where the configuration or the user says it.
    """
    if getattr(config, "prediction_length", 0) is not None:
        return ()
    config.prediction_length = steps or FORECAST_STEPS
    config.context_length = getattr(config, "context_length", None) or config.prediction_length
    return () if steps else (f"its configuration leaves prediction_length unset: taken as {FORECAST_STEPS} steps",)


def sizes_of_heads(config: Any) -> list[Any]:
    """Return what `fill_by_convention` may change."""
    return [stated(part, key) for part in parts(config) for key in ("head_dim", "num_key_value_heads")]


def stated(config: Any, key: str) -> Any:
    """Return what a configuration says of all layers, None for nothing; one that says it layer by layer refuses to answer."""
    try:
        return getattr(config, key, None)
    except Exception:
        return "by layer"


def fill_by_convention(config: Any) -> bool:
    """Fill in the sizes of attention heads that most networks of transformers infer themselves; return whether any was missing.

    Heads share the width evenly, and keys and values have as many heads as queries.
    """
    filled = False
    for part in parts(config):
        heads, width = stated(part, "num_attention_heads"), stated(part, "hidden_size")
        if not isinstance(heads, int) or not isinstance(width, int):
            continue
        for key, value in (("head_dim", width // heads), ("num_key_value_heads", heads)):
            if stated(part, key) is None:
                setattr(part, key, value)
                filled = True
    return filled


def unset(error: BaseException) -> str | None:
    """Return the name of what a configuration leaves unset and the failing line asks for, or None."""
    frames: list[tuple[FrameType, int]] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return next((name for frame, number in reversed(frames) if (name := _unset_in(frame, number))), None)


def _unset_in(frame: FrameType, number: int) -> str | None:
    """Return the first attribute of a configuration in a line that is None, also where the module has it as its own."""
    line = linecache.getline(frame.f_code.co_filename, number)
    for root, path in re.findall(r"\b(self|\w*config)((?:\.\w+)+)", line):
        value: Any = frame.f_locals.get(root)
        for name in path.split(".")[1:]:
            value = getattr(value, name, 0)
            if value is None:
                return name if "config" in root + path else _source_of(name, frame)
    return None


def _source_of(name: str, frame: FrameType) -> str | None:
    """Return which attribute of its configuration a module's own attribute was taken from."""
    try:
        source = inspect.getsource(type(frame.f_locals["self"]))
    except (OSError, TypeError):
        return None
    found = re.search(rf"self\.{name}\b.*= *\w*config\.(\w+)", source)
    return found[1] if found else None
