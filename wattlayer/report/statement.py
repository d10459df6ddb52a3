"""What a functional unit costs in energy, money and carbon, as a short statement for a terminal and as JSON: the figures that the
page opens with, also of a language model's requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..estimate import Estimate
from ..generation import Generation
from ..model.intervals import LEVEL
from .accounting import J_PER_KWH, Assumptions, Range, account
from .generation import generation_notes
from .quantities import decimal, money, small
from .terminal import escaped, estimate_notes, inputs_of

if TYPE_CHECKING:
    from rich.console import RenderableType

_NOT_STATED = ("layers", "steps")
"""Keys of the JSON of a prediction that a statement leaves out."""


def statement_json(estimate: Estimate | Generation, assumptions: Assumptions) -> dict[str, Any]:
    """Return the JSON of the prediction without its `layers` or `steps`, and `account`: energy in joules and kilowatt-hours, cost
    and grams of CO2 equivalent of one functional unit, each with both ends of its interval; None where the assumption that it
    needs was not stated.

    Raises InputError for a functional unit that the network cannot be counted in.
    """
    told, head = account(estimate, assumptions), estimate.to_json()
    return {key: value for key, value in head.items() if key not in _NOT_STATED} | {
        "account": {
            "functional_unit": assumptions.functional_unit, "inferences": told.inferences, "interval_frac": LEVEL,
            "energy_j": _ends(told.energy_j), "energy_kwh": _ends(told.energy_j.times(1 / J_PER_KWH)),
            "currency": assumptions.currency, "price_per_kwh": assumptions.price_per_kwh, "cost": _ends(told.cost),
            "grid_gco2_per_kwh": assumptions.grid_gco2_per_kwh, "operational_gco2": _ends(told.operational_gco2),
            "embodied_gco2": assumptions.embodied_gco2, "sci_gco2": _ends(told.intensity_gco2),
        }
    }  # fmt: skip


def _ends(x: Range | None) -> dict[str, float] | None:
    return None if x is None else {"value": x.value, "low": x.low, "high": x.high}


def statement_lines(estimate: Estimate | Generation, assumptions: Assumptions) -> list[RenderableType]:
    """Return the statement for a terminal: one line a figure with its interval and what was stated, and what to mind.

    Raises InputError for a functional unit that the network cannot be counted in.
    """
    from rich.text import Text

    told, stated, trace = account(estimate, assumptions), assumptions, estimate.trace
    if isinstance(estimate, Generation):
        asked = f"batch {estimate.batch} · {estimate.prompt_tokens} + {estimate.new_tokens} tokens · {estimate.prefill.mode} mode"
        counted, minds = "request", generation_notes(estimate)
    else:
        asked = f"{inputs_of(trace)} · {estimate.mode} mode"
        counted, minds = "inference", estimate_notes(estimate, marks=("", ""))
    energy_j, kwh = told.energy_j, told.energy_j.times(1 / J_PER_KWH)
    energy = f"{small(energy_j.value, 'J')}  ({small(energy_j.low, 'J')} to {small(energy_j.high, 'J')} at {LEVEL:.0%})"
    cost = carbon = intensity = "not stated"
    if told.cost is not None:
        value, low, high = (money(x, str(stated.currency)) for x in (told.cost.value, told.cost.low, told.cost.high))
        cost = f"{value}  ({low} to {high}), at {stated.price_per_kwh:.15g} {stated.currency} a kWh, as stated"
    if told.operational_gco2 is not None:
        carbon = f"{_grams(told.operational_gco2)}, at {stated.grid_gco2_per_kwh:.15g} g a kWh, as stated"
    if told.intensity_gco2 is not None:
        intensity = f"{_grams(told.intensity_gco2)}, {stated.embodied_gco2:.15g} g of it embodied, as stated"
    count = f"{decimal(told.inferences, 12)} {counted}{'' if told.inferences == 1 else 's'}"
    unit = stated.functional_unit + (f" = {count}" if count != stated.functional_unit else "")
    head = Text.from_markup(
        f"[bold]{escaped(trace.network)}[/] on [bold]{estimate.model.hardware}[/] · {trace.dtype} · tf32 {trace.tf32} · {asked}\n"
        f"for [bold]{escaped(unit)}[/]\n"
        f"energy              {energy}, {decimal(kwh.value)} kWh\n"
        f"cost                {escaped(cost)}\n"
        f"operational carbon  {carbon}\n"
        f"SCI                 {intensity}\n",
        emoji=False,
    )
    return [head, *minds, _BOARD]


_BOARD = "predicted, not measured; energy is of the board alone, so its carbon is a part of a system's"


def _grams(x: Range) -> str:
    return f"{small(x.value, 'g')} CO2e  ({small(x.low, 'g')} to {small(x.high, 'g')})"
