"""From joules to kilowatt-hours, money and carbon for a functional unit, under assumptions that the reader states.

Nothing is assumed that was not said: without a price there is no cost, without a grid intensity no carbon.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite

from ..errors import InputError
from ..estimate import Estimate
from ..generation import Generation
from ..trace import Trace

J_PER_KWH = 3.6e6
"""By definition: 1,000 W for 3,600 s."""

_GROUPED = r"\d{1,3}(?P<mark>[,_' \u00a0\u202f])\d{3}(?:(?P=mark)\d{3})*(?:\.\d+)?"
_PLAIN = r"(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?"
_EITHER = re.compile(r"\d{1,3}(?:\.\d{3})+")
"""A thousand to some, one to others."""
_POWERS = {"thousand": 1e3, "million": 1e6, "billion": 1e9}
_OTHER_POWERS = re.compile(
    r"kk?|mm?|g|t|b|mn|mi[oa]|mrd|bn|tn|kilo|mega|giga|tera|(?:hundred|dozen|lakh|crore|trillion)s?|(?:thousand|million|billion)s"
    r"|[km]tok(?:en)?s?",
    re.IGNORECASE,
)
"""Words that mean a number and that are not read: each has several spellings, and some several values."""
_NO_ANSWERS = re.compile(
    r"(?:mini)?batch(?:es)?|(?:kilo|mega|giga)(?:token|request|inference)s?"
    r"|[mun]?s|(?:sec|min|hr|second|minute|hour|day|week|month|year)s?|h|k?wh|k?j|joules?",
    re.IGNORECASE,
)
"""Words of what is no number of inferences: times, rates, energies, other powers, and batches, whose size a functional unit
does not tell."""
_UNIT = re.compile(
    rf"\s*(?P<number>{_GROUPED}|{_PLAIN})\s+(?:(?P<power>{'|'.join(_POWERS)})\s+)?(?P<name>(?=\S*[^\W\d])\S.*?)\s*", re.IGNORECASE
)


@dataclass(frozen=True)
class Assumptions:
    """What turns energy into cost and carbon; None means not stated.

    Raises InputError for a number that is negative or not finite, for a price without its currency, embodied emissions
    without a grid intensity, and a functional unit that does not begin with a positive number or that counts times or batches.
    """

    grid_gco2_per_kwh: float | None = None
    """Carbon intensity I of the electricity where it runs, in grams of CO2 equivalent a kilowatt-hour."""
    price_per_kwh: float | None = None
    currency: str | None = None
    embodied_gco2: float | None = None
    """Embodied emissions M of the hardware reserved for one functional unit, in grams of CO2 equivalent."""
    functional_unit: str = "1 inference"
    """What carbon is counted per: a number and a name; of tokens where the network reads tokens, else of inferences."""

    def __post_init__(self) -> None:
        for name in ("grid_gco2_per_kwh", "price_per_kwh", "embodied_gco2"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool | str) or not (isfinite(value) and value >= 0)):
                raise InputError(f"{name.replace('_', '-')} {value!r} must be a number of at least 0")
        if self.price_per_kwh is not None and not self.currency:
            raise InputError(f"price {self.price_per_kwh:g} a kWh in what currency? Give --currency, like EUR")
        if self.price_per_kwh is None and self.currency:
            raise InputError(f"currency {self.currency!r} without a price: give --price-per-kwh")
        if self.embodied_gco2 is not None and self.grid_gco2_per_kwh is None:
            raise InputError(f"embodied {self.embodied_gco2:g} g of CO2 without a grid intensity: give --grid-gco2-per-kwh")
        self.count()

    def count(self) -> tuple[float, str]:
        """Return how many of what a functional unit is: `(1000.0, "inferences")`."""
        what = f"functional unit {self.functional_unit!r}"
        found = _UNIT.fullmatch(str(self.functional_unit))
        words = re.findall(r"[\w']+", found["name"]) if found else []
        if found and not _EITHER.fullmatch(found["number"]) and words[0].lower() not in _POWERS:
            if _OTHER_POWERS.fullmatch(words[0]):
                raise InputError(f"{what}: write {words[0]!r} out, like '5,000 inferences'")
            if found["name"].lower().removeprefix("forward ") in ("pass", "passes"):
                raise InputError(f"{what}: a pass is of a whole batch, whose size a unit does not tell; count inferences")
            if unfit := [x for x in (*words[:1], *words[-1:]) if _NO_ANSWERS.fullmatch(x)] or ["per"] * ("per" in words):
                raise InputError(f"{what} has {unfit[0]!r} in it: count inferences, requests or tokens")
            number = float(re.sub(r"[^\d.eE+-]", "", found["number"])) * _POWERS.get((found["power"] or "").lower(), 1.0)
            if isfinite(number) and number > 0:
                return number, found["name"]
        raise InputError(f"{what} is not a positive number and a name, like '1,000 inferences' or '1 million tokens'")


@dataclass(frozen=True)
class Range:
    """A prediction with both ends of its interval."""

    low: float
    value: float
    high: float

    def times(self, factor: float, offset: float = 0.0) -> Range:
        """Return this range scaled and moved."""
        return Range(*(x * factor + offset for x in (self.low, self.value, self.high)))


@dataclass(frozen=True)
class Account:
    """What one functional unit costs; None where the assumption that it needs was not stated."""

    inferences: float
    """How many inferences (samples of a batch) make one functional unit."""
    energy_j: Range
    cost: Range | None
    operational_gco2: Range | None
    """O = E x I."""
    intensity_gco2: Range | None
    """Software Carbon Intensity, ((E x I) + M) per R of ISO/IEC 21031:2024; needs I and M."""


def account(estimate: Estimate | Generation, assumptions: Assumptions) -> Account:
    """Return cost and carbon of a functional unit of what was estimated; the tokens of a request are those that it writes (of a
    prompt alone: reads), as in `energy_per_token_j`. Raises InputError for a unit that it cannot be counted in, or of infinite
    cost.

    Formula: Software Carbon Intensity, ISO/IEC 21031:2024 (specification of the Green Software Foundation):
    SCI = ((E x I) + M) per R. E is the energy of the board alone, as everywhere in wattlayer.
    """
    inferences = _inferences(estimate, *assumptions.count())
    energy_j = inference(estimate).times(inferences)
    kwh = energy_j.times(1 / J_PER_KWH)
    price, grid, embodied = assumptions.price_per_kwh, assumptions.grid_gco2_per_kwh, assumptions.embodied_gco2
    operational = None if grid is None else kwh.times(grid)
    cost = None if price is None else kwh.times(price)
    intensity = None if operational is None or embodied is None else operational.times(1.0, embodied)
    if not all(isfinite(x.high) for x in (energy_j, cost, operational, intensity) if x is not None):
        raise InputError(f"{assumptions.functional_unit} cost more than a number can say: state a smaller functional unit")
    return Account(inferences, energy_j, cost, operational, intensity)


def inference(estimate: Estimate | Generation) -> Range:
    """Return the energy in joules of one inference: one sample of the batch."""
    low, high = estimate.interval_j
    return Range(low, estimate.energy_j, high).times(1 / estimate.trace.batch)


def tokens(trace: Trace) -> int | None:
    """Return how many tokens a sample has, where the network's first input is token ids [batch, tokens]; else None."""
    first = trace.inputs[0] if trace.inputs else None
    if first is None or len(first.shape) != 2 or first.dtype not in ("int64", "int32"):
        return None
    return first.shape[1]


def _inferences(estimate: Estimate | Generation, number: float, name: str) -> float:
    words, trace = name.lower().split(), estimate.trace
    if words[-1] not in ("token", "tokens"):
        return number
    if isinstance(estimate, Generation):
        writes = estimate.new_tokens > 0
        if words[:-1] and words[:-1] not in [[x] for x in (("generated", "new", "output") if writes else ("input", "prompt"))]:
            does = "writes" if writes else "reads"
            raise InputError(
                f"functional unit of {name}: a request is counted by the tokens that it {does}, say tokens or requests"
            )
        return number / (estimate.new_tokens or estimate.prompt_tokens)
    if words[:-1] not in ([], ["input"]):
        raise InputError(f"functional unit of {name}: a pass is counted by the tokens that it reads, say tokens or inferences")
    each = tokens(trace)
    if not each:
        raise InputError(f"functional unit of {name}: {trace.network} does not read tokens; count inferences")
    return number / each
