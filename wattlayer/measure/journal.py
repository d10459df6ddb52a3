"""The campaign's file: append-only JSON lines, one fsync an attempt, whole again after any power cut.

Lines: a header a session (`wattlayer_data`), a row a measurement, `failed` for an attempt that gave no energy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..dataset import SCHEMA, Measurement
from ..errors import InputError, writing
from ..files import whole_file

Attempt = tuple[str, int]
"""Key of an item and the number of the attempt at it."""


class Journal:
    """The rows of one campaign. Opening it drops a line that a power cut tore, so that its attempt is made again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers: list[dict[str, Any]] = []
        self.rows: list[Measurement] = []
        self.failures: dict[Attempt, tuple[str, ...]] = {}
        self.attempts: set[Attempt] = set()
        """Every attempt that has its line, whatever came of it."""
        if path.exists():
            self._load(_mended(path))

    def _load(self, text: str) -> None:
        for number, line in enumerate(text.splitlines(), 1):
            try:
                self._take(json.loads(line))
            except (ValueError, LookupError, TypeError, RecursionError, InputError) as error:
                raise InputError(f"{self.path}, line {number} is damaged ({error}): restore it or begin anew") from None

    def _take(self, record: Any) -> None:
        if "wattlayer_data" in record:
            self.headers.append(record)
        elif "failed" in record:
            self._keep_failure((record["key"], record["attempt"]), tuple(record["failed"]))
        else:
            self._keep(Measurement.from_json(record))

    def _keep(self, row: Measurement) -> None:
        self.rows.append(row)
        self.attempts.add((row.key or "", row.attempt))

    def _keep_failure(self, attempt: Attempt, flags: tuple[str, ...]) -> None:
        self.failures[attempt] = flags
        self.attempts.add(attempt)

    def begin(self, header: Mapping[str, Any]) -> None:
        """Write a session's header."""
        record = {"wattlayer_data": SCHEMA, **header}
        self._append(record)
        self.headers.append(record)

    def add(self, row: Measurement) -> None:
        """Write one row; it is on the disk when this returns."""
        self._append(row.to_json())
        self._keep(row)

    def fail(self, attempt: Attempt, flags: tuple[str, ...], reason: str, item: Mapping[str, Any]) -> None:
        """Write down an attempt that gave no energy."""
        key, number = attempt
        self._append({"failed": list(flags), "key": key, "attempt": number, "reason": reason, "item": item})
        self._keep_failure(attempt, flags)

    def rewrite(self, rows: list[Measurement]) -> None:
        """Replace every row by the one of the same key and attempt in `rows`, all at once; other lines stay."""
        changed = {(row.key, row.attempt): row for row in rows}
        lines = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            row = changed.get((record.get("key"), record.get("attempt", 1))) if "energy_j" in record else None
            lines.append(json.dumps(row.to_json(), allow_nan=False) if row else line)
        with whole_file(self.path) as file:
            file.write("\n".join(lines) + "\n")
        self.rows = [changed.get((row.key, row.attempt), row) for row in self.rows]

    def _append(self, record: Mapping[str, Any]) -> None:
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _mended(path: Path) -> str:
    """Return the file's whole lines, and cut off what follows the last of them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
            os.fsync(file.fileno())
    try:
        return whole.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text: restore it or begin anew") from None
