"""Estimates, traces and the rows of evaluations as CSV text and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..estimate import Estimate
from ..layer import format_shape
from ..trace import Trace

if TYPE_CHECKING:
    from ..evaluate.scores import Evaluation


def estimate_csv(estimate: Estimate) -> str:
    """Return a line for each of `Estimate.rows`; shapes as 32x3x224x224, several joined by `;`."""
    return csv_of([cells_of(row) for row in estimate.rows()])


def evaluation_csv(evaluation: Evaluation) -> str:
    """Return a line for each of `Evaluation.rows`; shapes as 32x3x224x224, several of them, and flags, joined by `;`."""
    return csv_of([cells_of(row) | {"flags": ";".join(row["flags"])} for row in evaluation.rows()])


def evaluation_lines(evaluation: Evaluation) -> str:
    """Return `Evaluation.rows` as JSON lines."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in evaluation.rows())


def cells_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return `row` with its shapes as text: 32x3x224x224, several joined by `;`."""
    shaped = {k for k, v in row.items() if k.endswith("_shapes") and v is not None}
    return {k: ";".join(map(format_shape, v)) if k in shaped else v for k, v in row.items()}


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
