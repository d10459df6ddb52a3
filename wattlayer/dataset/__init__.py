"""Measurements: one frozen record per measured layer or network, and the JSON-lines files that hold them.

A file is a header line `{"wattlayer_data": 1, …}` and one measurement a line. A campaign that was resumed has one header
a session; an attempt that gave no energy is a line `{"failed": [flags], …}`. Reading a file never runs code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import whole_file
from ..layer import Layer, check_tf32

SCHEMA = 1
MODES = ("graph", "eager", "compiled")
METERS = ("measured", "assumed-power")
"""`assumed-power`: energy = measured time x a stated power. Never mixed with measured rows."""
MOST_S, MOST_W = 1e5, 1e5
"""A call takes no day, and a device no hundred kilowatts: beyond are slips of units."""
REFERENCE = "reference"
"""`source` of the layer that a campaign measures again and again."""
_SERIES = ("step_powers_w", "temperatures_c")
"""Fields that hold a row of numbers; left out of the file where empty."""


@dataclass(frozen=True)
class Measurement:
    """What one call of a layer, or one forward pass of a network, took: exactly one of `layer` and `network` is set.

    Rows of one `run` share the state of the board. `flags` says what was wrong with a row that was kept.
    """

    hardware: str
    time_s: float
    energy_j: float
    layer: Layer | None = None
    network: str | None = None
    input_shapes: tuple[tuple[int, ...], ...] = ()
    dtype: str = "float32"
    tf32: str = "conv"
    mode: str = "graph"
    run: str = ""
    flags: tuple[str, ...] = ()
    meter: str = "measured"
    key: str | None = None
    """Names the attempt within its campaign; `duplicate_of` is the key of the row that this one repeats."""
    attempt: int = 1
    duplicate_of: str | None = None
    energy_corrected_j: float | None = None
    """`energy_j` less the drift that the campaign's reference layer saw."""
    interval_frac: float | None = None
    """Half the width of the 95 % interval of `energy_j`, relative."""
    step_powers_w: tuple[float, ...] = ()
    """Mean power between one counter step and the next."""
    window_s: float | None = None
    iterations: int | None = None
    """Calls within the window."""
    measured_at_s: float | None = None
    """Seconds since the epoch at the middle of the window."""
    regime: str | None = None
    """State of the caches: "cold" weights, "hot" weights, or "diluted" (interleaved with a filler layer)."""
    rotated_bytes: int | None = None
    """Bytes of the weight copies that the calls took in turn."""
    distribution: str | None = None
    """Of floating inputs: "normal", or "rectified" behind a ReLU."""
    seed: int | None = None
    temperatures_c: tuple[float, ...] = ()
    """At the start and at the end of the window."""
    clock_hz: float | None = None
    memory_clock_hz: float | None = None
    capped_frac: float | None = None
    """Share of the window with clocks held down by the power limit."""
    kernels: int | None = None
    mha_fastpath: bool | None = None
    """False of a network that ran with PyTorch's fast path of `nn.MultiheadAttention` turned off (`torch.backends.mha`)."""
    source: str | None = None
    """What the layer was sampled from: a network, a perturbation, a Sobol point, …"""
    place: tuple[str, int] | None = field(default=None, compare=False)
    """File and line that the row was read from, so that people find it; no part of the record."""

    def __post_init__(self) -> None:
        if (self.layer is None) == (self.network is None):
            raise InputError("a measurement is of a layer or of a network: give exactly one of them")
        for name in ("time_s", "energy_j", "energy_corrected_j"):
            value = getattr(self, name)
            if not (_is_positive(value) or (value is None and name == "energy_corrected_j")):
                raise InputError(f"{name} {value!r} must be a finite number above 0")
        if self.time_s > MOST_S or self.power_w > MOST_W:
            raise InputError(
                f"{self.time_s:g} s a call at {self.power_w:g} W is nothing that a device does: give seconds and joules"
            )
        if self.layer and not any(x.elements for x in self.layer.outputs):
            raise InputError(f"the layer {self.layer.kind} has no output, or an empty one: that is nothing to measure")
        for name in ("hardware", "dtype", "run"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} {getattr(self, name)!r} is not text")
        _one_of("mode", self.mode, MODES)
        _one_of("meter", self.meter, METERS)
        check_tf32(self.tf32)

    @property
    def power_w(self) -> float:
        """Mean power over the call, gross (idle included)."""
        return self.energy_j / self.time_s

    @property
    def settled_j(self) -> float:
        """Energy of the call less the board's drift, where that is known."""
        return self.energy_corrected_j or self.energy_j

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        record |= {"power_w": self.power_w, "flags": list(self.flags), "input_shapes": [list(s) for s in self.input_shapes]}
        record["layer"] = self.layer.to_json() if self.layer else None
        record |= {name: list(record[name]) or None for name in _SERIES}
        return {key: value for key, value in record.items() if value is not None}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Measurement:
        """Rebuild a measurement; unknown keys are ignored, a missing or malformed one raises InputError."""
        try:
            known = {f.name: record[f.name] for f in fields(Measurement) if f.compare and f.name in record}
            known["layer"] = Layer.from_json(record["layer"]) if record.get("layer") else None
            known["flags"] = tuple(str(x) for x in record.get("flags", ()))
            known["input_shapes"] = tuple(tuple(int(n) for n in s) for s in record.get("input_shapes", ()))
            known |= {name: tuple(float(x) for x in record[name]) for name in _SERIES if name in record}
            return Measurement(**known)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise InputError(f"not a measurement: {error}") from None


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} {value!r} is not one of {', '.join(allowed)}")


def checked(rows: Iterable[Any]) -> list[Measurement]:
    """Return `rows` as a list; raise InputError for one that is no measurement."""
    found = list(rows)
    for row in found:
        if not isinstance(row, Measurement):
            raise InputError(
                f"{str(row)[:40]!r} is no Measurement: `read_measurements` or `tables.read_table` make them of files"
            )
    return found


def write_measurements(path: str | Path, measurements: Iterable[Measurement], header: Mapping[str, Any] | None = None) -> int:
    """Write `measurements` under one header line and return their number; `path` appears only once it is complete.

    Raises InputError where it cannot be written.
    """
    count = 0
    with whole_file(Path(path)) as file:
        file.write(json.dumps({"wattlayer_data": SCHEMA, **(header or {})}) + "\n")
        for measurement in measurements:
            file.write(json.dumps(measurement.to_json(), allow_nan=False) + "\n")
            count += 1
    return count


def read_measurements(path: str | Path) -> list[Measurement]:
    """Read a JSON-lines dataset; raise InputError naming the file and the line that cannot be read."""
    found = []
    for number, row in numbered_measurements(path):
        if isinstance(row, str):
            raise InputError(f"{path}, line {number}: {row}")
        found.append(row)
    return found


def numbered_measurements(path: str | Path) -> Iterator[tuple[int, Measurement | str]]:
    """Yield the measurements of a JSON-lines dataset, or why a line is none, each with the number of its line.

    Raises InputError for a file that is no such dataset.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a JSON-lines dataset (it is not text)") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    _check_header(path, lines[0][1] if lines else "")
    if len(lines) > 1 and not text.endswith("\n") and not _is_json(lines[-1][1]):
        lines.pop()  # a line without its end is what a power cut leaves; resuming measures it again
    for number, line in lines[1:]:
        try:
            record = _object(line)
            if "failed" not in record and "wattlayer_data" not in record:
                yield number, replace(Measurement.from_json(record), place=(str(path), number))
        except InputError as error:
            yield number, str(error)


def check_one_board(paths: Iterable[str | Path], hardware: str | None = None) -> None:
    """Raise InputError where campaigns of one device's name in `paths`, if given of `hardware`, were measured on several boards.

    Boards of one name draw other powers for the same work (data/README.md), and share no reference layer to join them by.
    Files that name no board, such as tables made elsewhere, pass.
    """
    found: dict[str, dict[str, str | Path]] = {}
    for path in paths:
        for header in session_headers(Path(path)):
            meter = header.get("meter")
            if isinstance(meter, dict) and isinstance(board := meter.get("board"), str):
                found.setdefault(str(header.get("hardware")), {}).setdefault(board, path)
    for name, files in found.items():
        if len(files) > 1 and hardware in (None, name):
            raise InputError(
                f"{', '.join(map(str, files.values()))} come from {len(files)} boards of {name}: take those of one board"
            )


def session_headers(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the headers of a dataset's sessions; none of a file of another format, or of lines that cannot be read."""
    if path.suffix != ".jsonl":
        return
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as file:
        for line in file:
            if '"wattlayer_data"' in line:
                with suppress(InputError):
                    yield _object(line)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _check_header(path: Path, line: str) -> None:
    try:
        version = _object(line).get("wattlayer_data")
    except InputError:
        version = None
    if version is None:
        cure = "; `wattlayer import` makes one of a table" if {".csv", ".gz"} & set(path.suffixes) else ""
        raise InputError(f'{path} is not a wattlayer dataset: its first line must be {{"wattlayer_data": {SCHEMA}, …}}{cure}')
    if version != SCHEMA:
        raise InputError(f"{path} has dataset schema {version}, this wattlayer reads {SCHEMA}: convert or measure it again")


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError("not a JSON object")
    return value
