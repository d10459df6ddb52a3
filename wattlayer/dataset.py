"""Measurements: one frozen record per measured layer or network, and the JSON-lines files that hold them.

A file is a header line `{"wattlayer_data": 1, …}` and one measurement a line. Reading one never runs code.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import InputError
from .layer import Layer, check_tf32

SCHEMA = 1
MODES = ("graph", "eager", "compiled")
METERS = ("measured", "assumed-power")
"""`assumed-power`: energy = measured time x a stated power. Never mixed with measured rows."""


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

    def __post_init__(self) -> None:
        if (self.layer is None) == (self.network is None):
            raise InputError("a measurement is of a layer or of a network: give exactly one of them")
        for name in ("time_s", "energy_j"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise InputError(f"{name} {value!r} must be a finite number above 0")
        _one_of("mode", self.mode, MODES)
        _one_of("meter", self.meter, METERS)
        check_tf32(self.tf32)

    @property
    def power_w(self) -> float:
        """Mean power over the call, gross (idle included)."""
        return self.energy_j / self.time_s

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON types."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        record |= {"power_w": self.power_w, "flags": list(self.flags), "input_shapes": [list(s) for s in self.input_shapes]}
        record["layer"] = self.layer.to_json() if self.layer else None
        return {key: value for key, value in record.items() if value is not None}

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Measurement:
        """Rebuild a measurement; unknown keys are ignored, a missing or malformed one raises InputError."""
        try:
            known = {f.name: record[f.name] for f in fields(Measurement) if f.name in record}
            known["layer"] = Layer.from_json(record["layer"]) if record.get("layer") else None
            known["flags"] = tuple(str(x) for x in record.get("flags", ()))
            known["input_shapes"] = tuple(tuple(int(n) for n in s) for s in record.get("input_shapes", ()))
            return Measurement(**known)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"not a measurement: {error}") from None


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} {value!r} is not one of {', '.join(allowed)}")


def write_measurements(path: str | Path, measurements: Iterable[Measurement], header: Mapping[str, Any] | None = None) -> int:
    """Write `measurements` under one header line and return their number; `path` appears only once it is complete."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"wattlayer_data": SCHEMA, **(header or {})}) + "\n")
        for measurement in measurements:
            file.write(json.dumps(measurement.to_json(), allow_nan=False) + "\n")
            count += 1
    os.replace(partial, path)
    return count


def read_measurements(path: str | Path) -> list[Measurement]:
    """Read a JSON-lines dataset; raise InputError naming the file and the line that cannot be read."""
    return list(_lines(Path(path)))


def _lines(path: Path) -> Iterator[Measurement]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a JSON-lines dataset (it is not text)") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    _check_header(path, lines[0][1] if lines else "")
    for number, line in lines[1:]:
        try:
            yield Measurement.from_json(_object(line))
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None


def _check_header(path: Path, line: str) -> None:
    try:
        version = _object(line).get("wattlayer_data")
    except InputError:
        version = None
    if version is None:
        raise InputError(f'{path} is not a wattlayer dataset: its first line must be {{"wattlayer_data": {SCHEMA}, …}}')
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
