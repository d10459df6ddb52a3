"""Where a campaign stands, and what a session of it leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from .closure import Closure
from .drift import Repeatability


@dataclass(frozen=True)
class Tick:
    """Where a campaign stands, for whoever shows progress."""

    done: int
    total: int
    eta_s: float
    """Until the queue is done; the deadline may come first."""
    left_s: float
    """Until the deadline."""
    interval_frac: float | None
    """Median half width of the intervals so far."""
    text: str


@dataclass(frozen=True)
class Summary:
    """What a session leaves behind."""

    run: str
    done: int
    total: int
    rows: int
    flagged: int
    failed: int
    repeatability: Repeatability | None
    closures: tuple[Closure, ...]
    stopped_by: str
    """"complete", "deadline", "signal" or "device"."""
    needed_s: float | None = None
    """What a session needs to get any further, where this one measured nothing of the plan for want of time."""

    def describe(self) -> str:
        """Lines for people."""
        lines = [
            f"{self.run}: {self.done} of {self.total} planned measurements done ({self.stopped_by}); "
            f"{self.rows} rows, {self.flagged} flagged, {self.failed} without energy"
        ]
        if self.needed_s:
            lines.append(
                f"nothing of the plan fitted into this session: give at least --minutes {ceil(self.needed_s / 6) / 10:g}"
            )
        if self.repeatability:
            r = self.repeatability
            lines.append(
                f"repeatability: {100 * r.sd_frac:.2f} % (standard deviation of one measurement, from {r.pairs} hidden "
                f"repeats); half of the pairs differ by less than {100 * r.median_frac:.2f} %"
            )
        return "\n".join([*lines, *(str(x) for x in self.closures)])
