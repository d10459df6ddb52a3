"""`wattlayer predict --prefill N --decode N`: what a language model's request costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .options import Format
from .output import busy, rendered, say

if TYPE_CHECKING:
    from ..generation import Generation


def priced(network: str, prefill: int | None, decode: int | None, others: dict[str, Any], **options: Any) -> Generation:
    """Return the answer for the options of the command line; `others` are those that do not apply to a request."""
    from ..generation import predict_generation

    for name, value in others.items():
        if value is not None:
            raise InputError(f"{name} {value} does not go with --prefill and --decode: leave it out")
    with busy(f"predicting {network}"):
        return predict_generation(network, 1 if prefill is None else prefill, decode or 0, **options)


def generation_text(generation: Generation, format: Format) -> str:
    """Return a request as it was asked for: table, json or csv (one line a pass)."""
    from ..report.generation import generation_csv, generation_tables

    if format is Format.json:
        return json.dumps(generation.to_json()) + "\n"
    if format is Format.csv:
        say(*(f"wattlayer: {text}" for text in generation.minds))
        return generation_csv(generation)
    return rendered(*generation_tables(generation))
