"""Sweeps over whole libraries of networks: which can be traced, why the others cannot, and how much of each was measured."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from .adapters import SOURCES, InputSize, names_of, resolve
from .errors import InputError, first_line
from .estimate import estimate
from .model import EnergyModel, load_model
from .predict import trace_network
from .quiet import quiet
from .trace import Trace

ZOOS = ("torchvision", "timm", "hf")
"""Swept where none is named: diffusers' networks are swept when asked for, as most take what only their pipelines make."""

TIME_LIMIT_S = 180
"""A network that takes more processor time is refused with that reason, on systems that have such timers."""


@dataclass(frozen=True)
class Outcome:
    """What became of one network; numbers are null where it was refused, shares where no hardware was asked for."""

    network: str
    reason: str | None
    """Why it was refused, in one line; None where it was traced."""
    elapsed_s: float
    """Wall clock to build and trace it, in one process: longer where others keep the cores busy."""
    cpu_s: float
    """Processor time of the same."""
    calls: int | None = None
    flop: int | None = None
    unknown_kinds: tuple[str, ...] = ()
    """Kinds of operators without a formula of their own, whose FLOP are a guess; the one that moves most bytes first."""
    unknown_bytes_frac: float | None = None
    """Share of the bytes moved in such kinds."""
    unread_frac: float | None = None
    """Share of the parameters that the pass never reads: vision towers of networks that ran on text, experts without a token."""
    assumptions: tuple[str, ...] = ()
    """What was taken for granted of values that only weights could tell."""
    hardware: str | None = None
    covered_frac: float | None = None
    """Share of the predicted energy in kinds of layers that were measured on `hardware`."""
    uncovered_kinds: tuple[str, ...] = ()

    @property
    def traced(self) -> bool:
        return self.reason is None


def zoo_names(source: str) -> list[str]:
    """Return every network of `source` (torchvision, timm, hf or diffusers) as MODEL arguments; raise InputError for another."""
    if source not in SOURCES:
        raise InputError(f"there is no zoo {source!r}; known: {', '.join(SOURCES)}")
    return [f"{source}:{name}" for name in names_of(source)]


def visit(name: str, hardware: str | None = None, time_limit_s: float = TIME_LIMIT_S) -> Outcome:
    """Build and trace one network at its default size, and estimate it where `hardware` is given; never raises for a network."""
    from .trace.unread import Reads

    started, cpu_started = time.perf_counter(), time.process_time()

    def spent_s() -> tuple[float, float]:
        return time.perf_counter() - started, time.process_time() - cpu_started

    model = None if hardware is None else _model(hardware)
    try:
        with _alarm(time_limit_s), quiet():
            network = resolve(name, InputSize())
            with Reads() as reads:
                traced = trace_network(network)
        outcome = _counted(traced, spent_s(), reads.unread_frac(network.module))
        if model is None or not traced.layers:
            return outcome
        result = estimate(traced, model)
    except Exception as error:  # a sweep goes on: what one network raises is its reason
        told = first_line(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"
        return Outcome(name, told, *spent_s())
    uncovered = tuple(sorted(result.uncovered_kinds()))
    return replace(outcome, hardware=hardware, covered_frac=result.covered_frac, uncovered_kinds=uncovered)


def _counted(traced: Trace, spent_s: tuple[float, float], unread_frac: float) -> Outcome:
    """Return what a trace itself tells."""
    moved_bytes: Counter[str] = Counter()
    unknown: set[str] = set()
    for layer, calls in traced.unique().items():
        moved_bytes[layer.kind] += calls * (layer.read_bytes + layer.write_bytes)
        unknown |= set() if layer.known else {layer.kind}
    return Outcome(
        traced.network,
        None,
        *spent_s,
        calls=len(traced.layers),
        flop=traced.flop,
        unknown_kinds=tuple(sorted(unknown, key=lambda kind: (-moved_bytes[kind], kind))),
        unknown_bytes_frac=sum(moved_bytes[x] for x in unknown) / max(moved_bytes.total(), 1),
        unread_frac=unread_frac,
        assumptions=traced.assumptions,
    )


@cache
def _model(hardware: str) -> EnergyModel:
    return load_model(hardware)


@contextmanager
def _alarm(limit_s: float) -> Iterator[None]:
    """Interrupt what takes more than `limit_s` of processor time, which other work on the machine does not change.

    Where Python swallows the interruption, as in callbacks of its garbage collector, it comes again after as long (a second at
    least, to leave alone what the first one unwinds), or at the end. Without effect where the system has no such timers.
    """
    late = InputError(f"not traced within {limit_s:g} s of processor time")
    passed: list[int] = []

    def stop(number: int, _: Any) -> None:
        passed.append(number)
        raise late

    if not hasattr(signal, "SIGPROF"):
        yield
        return
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit_s, max(limit_s, 1.0))
    try:
        yield
        if passed:
            raise late
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def sweep(names: Sequence[str], hardware: str | None = None, journal: Path | None = None, n_jobs: int = 1) -> Iterator[Outcome]:
    """Yield the outcome of every network as it comes, over `n_jobs` processes.

    `journal` is a JSON lines file: what it holds already for the same hardware is not done again, what comes new is
    appended at once, so that an interrupted sweep goes on. Raises InputError for a journal that is not one.
    """
    from joblib import Parallel, delayed

    done = {x.network: x for x in _read(journal) if x.hardware == hardware or not x.traced}
    yield from (done[name] for name in names if name in done)
    rest = [name for name in names if name not in done]
    for outcome in Parallel(n_jobs=n_jobs, return_as="generator_unordered", batch_size=1)(
        delayed(visit)(name, hardware) for name in rest
    ):
        if journal is not None:
            with journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
        yield outcome


def _read(journal: Path | None) -> list[Outcome]:
    """Return a journal's outcomes; a last line that was cut off when the sweep was interrupted is left out."""
    if journal is None:
        return []
    try:
        journal.touch()  # before minutes of work that could not be written down
        lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{journal} cannot be written or read ({first_line(error)}): name another journal") from None
    if lines and not lines[-1].endswith("\n"):
        journal.write_text("".join(lines[:-1]), encoding="utf-8")
        lines.pop()
    return [_outcome(journal, number, line) for number, line in enumerate(lines, 1)]


def _outcome(journal: Path, number: int, line: str) -> Outcome:
    import msgspec

    try:
        record = msgspec.json.decode(line, type=dict[str, Any])
        return msgspec.convert({field.name: record[field.name] for field in fields(Outcome)}, Outcome)
    except (ValueError, KeyError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{journal} line {number} is no outcome of a sweep ({why}): name another file") from None
