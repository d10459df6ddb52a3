"""Estimates and traces as CSV text and JSON types."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..estimate import Estimate
from ..layer import format_shape
from ..trace import Trace


def estimate_csv(estimate: Estimate) -> str:
    """Return a line for each of `Estimate.rows`; shapes as 32x3x224x224, several joined by `;`."""
    return csv_of([
        {k: ";".join(map(format_shape, v)) if k.endswith("_shapes") else v for k, v in row.items()} for row in estimate.rows()
    ])  # fmt: skip


def trace_json(trace: Trace) -> dict[str, Any]:
    """Return a trace as JSON types: totals and every layer with its path, shapes, FLOP and bytes."""
    layers = [
        {"index": i, "path": path, **layer.to_json(), "flop": layer.flop, "read_bytes": layer.read_bytes,
         "write_bytes": layer.write_bytes}
        for i, (path, layer) in enumerate(zip(trace.paths, trace.layers))
    ]  # fmt: skip
    return {
        "schema": 1, "network": trace.network, "dtype": trace.dtype, "tf32": trace.tf32, "batch": trace.batch,
        "total": {"flop": trace.flop, "read_bytes": trace.read_bytes, "write_bytes": trace.write_bytes,
                  "unique_layers": len(trace.unique())},
        "assumptions": list(trace.assumptions),
        "layers": layers,
    }  # fmt: skip


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of the same columns as CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
