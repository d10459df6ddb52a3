"""Paired timing: every contender runs in every round, and a ratio is the median over rounds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One figure of the results: a value in `unit`, what it stands against, and their ratio."""

    group: str
    what: str
    value: float
    unit: str
    against: str = ""
    ratio: float | None = None
    target: str = ""


@dataclass(frozen=True)
class Paired:
    """Wall time in seconds of each contender in each round."""

    rounds: Mapping[str, tuple[float, ...]]

    def median_s(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def ratio(self, name: str, against: str) -> float:
        """Median over rounds of one contender's time over another's in the same round."""
        return statistics.median(a / b for a, b in zip(self.rounds[name], self.rounds[against]))


def paired(contenders: Mapping[str, Work], rounds: int) -> Paired:
    """Run every contender once unrecorded, then all in turn `rounds` times, each round starting with another."""
    for work in contenders.values():
        work()
    names, taken = list(contenders), {name: [] for name in contenders}
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            taken[name].append(seconds(contenders[name]))
    return Paired({name: tuple(values) for name, values in taken.items()})


def seconds(work: Work, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long `work` takes by `clock`."""
    start = clock()
    work()
    return clock() - start
