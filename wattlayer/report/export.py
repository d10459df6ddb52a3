"""Estimates as files for other programs: speedscope, Perfetto (any viewer of Chrome traces) and Parquet; also judged rows.

Profile viewers show time; here their axis is energy. Both profiles are a walk over the calls in call order, in which
every module of a call's path is a slice around it, so that the viewers' flame charts show joules by module. Slices begin
and end at whole nanojoules of the energy summed so far: the file is exact to 1 nJ and slices nest without a gap.

- speedscope knows no unit of energy: values are microjoules with the unit "none", and the profile's name says so. The
  format is "evented", as in https://www.speedscope.app/file-format-schema.json.
- A Chrome trace has microseconds only: 1 µs stands for 1 µJ, so a second on the axis is a joule; the name of the process
  says so. B and E events with ph, ts, pid, tid and name, as in Google's document "Trace Event Format".
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..estimate import GAPS, VERSION, Estimate
from .text import cells_of

if TYPE_CHECKING:
    from ..evaluate.scores import Evaluation

SPEEDSCOPE_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


@dataclass(frozen=True)
class Edge:
    """Where a slice begins or ends: after how many nanojoules; `layer` is the call that it is, None for a module."""

    begins: bool
    name: str
    at_nj: int
    layer: int | None = None


def speedscope(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as a speedscope file (JSON types): one evented profile whose values are microjoules."""
    frames: dict[str, int] = {}
    events = [
        {"type": "O" if x.begins else "C", "frame": frames.setdefault(x.name, len(frames)), "at": x.at_nj / 1000}
        for x in edges(estimate)
    ]
    name = f"{_title(estimate)}: energy, values are microjoules (µJ)"
    profile = {
        "type": "evented", "name": name, "unit": "none", "startValue": 0, "endValue": events[-1]["at"], "events": events,
    }  # fmt: skip
    return {
        "$schema": SPEEDSCOPE_SCHEMA, "name": name, "exporter": f"wattlayer {VERSION}", "activeProfileIndex": 0,
        "shared": {"frames": [{"name": frame} for frame in frames]}, "profiles": [profile],
    }  # fmt: skip


def perfetto(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as a Chrome trace (JSON types) for Perfetto: 1 µs on the axis is 1 µJ, 1 s is 1 J."""
    ids = {"pid": 1, "tid": 1}
    rows = [cells_of(row) for row in estimate.to_json()["layers"]]
    title = f"{_title(estimate)}: 1 s on the axis is 1 J"
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "ts": 0, "args": {"name": title}, **ids},
        {"ph": "M", "name": "thread_name", "ts": 0, "args": {"name": "energy by module, in call order"}, **ids},
    ]
    for x in edges(estimate):
        if x.begins:
            args = {} if x.layer is None else {"args": rows[x.layer]}
            kind = "module" if x.layer is None else "layer"
            events.append({"ph": "B", "name": x.name, "cat": kind, "ts": x.at_nj / 1000, **ids, **args})
        else:
            events.append({"ph": "E", "name": x.name, "ts": x.at_nj / 1000, **ids})
    facts = {"wattlayer": VERSION, "axis": "energy: 1 µs is 1 µJ", "estimate": _facts(estimate)}
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": facts}


def parquet(estimate: Estimate) -> bytes:
    """Return `Estimate.rows` as a Parquet file: the layers and, in eager mode, the gaps between them.

    Everything else of the JSON form is in the file's metadata, under `wattlayer`. Raises InputError without pyarrow.
    """
    return _parquet(estimate.rows(), _facts(estimate))


def evaluation_parquet(evaluation: Evaluation) -> bytes:
    """Return `Evaluation.rows` as a Parquet file, with the scores' JSON form in its metadata, under `wattlayer`.

    Raises InputError without pyarrow.
    """
    return _parquet(evaluation.rows(), evaluation.to_json())


def check_parquet() -> None:
    """Raise InputError without pyarrow, before the work is done."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise InputError("Parquet needs pyarrow: pip install 'wattlayer[parquet]'") from None


def _parquet(rows: list[dict[str, Any]], facts: dict[str, Any]) -> bytes:
    check_parquet()
    from pyarrow import BufferOutputStream, Table, parquet

    buffer = BufferOutputStream()
    table = Table.from_pylist(rows).replace_schema_metadata({"wattlayer": json.dumps(facts)})
    parquet.write_table(table, buffer)
    return bytes(buffer.getvalue())


def edges(estimate: Estimate) -> Iterator[Edge]:
    """Yield where slices begin and end, in order: the network, the modules of each call's path by full path, the call."""
    ends_nj = np.rint(np.cumsum(estimate.layer_energy_j) * 1e9).astype(int).tolist()
    root, now = estimate.trace.network, 0
    open_modules: list[str] = []
    yield Edge(True, root, 0)
    for i, (layer, path, end) in enumerate(zip(estimate.trace.layers, estimate.trace.paths, ends_nj)):
        parts = path.split(".") if path else []
        modules = [".".join(parts[: n + 1]) for n in range(len(parts))]
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(open_modules, modules)))
        yield from (Edge(False, name, now) for name in reversed(open_modules[shared:]))
        yield from (Edge(True, name, now) for name in modules[shared:])
        yield from (Edge(True, layer.kind, now, i), Edge(False, layer.kind, end, i))
        open_modules, now = modules, end
    yield from (Edge(False, name, now) for name in reversed(open_modules))
    if estimate.gap_energy_j:
        end = now + round(estimate.gap_energy_j * 1e9)
        yield from (Edge(True, GAPS, now), Edge(False, GAPS, end))
        now = end
    yield Edge(False, root, now)


def _title(e: Estimate) -> str:
    return f"{e.trace.network} on {e.model.hardware}, {e.trace.dtype}, batch {e.trace.batch}, {e.mode} mode"


def _facts(estimate: Estimate) -> dict[str, Any]:
    """The JSON form without its layers."""
    return {name: value for name, value in estimate.to_json().items() if name != "layers"}
