"""What people see of an estimate, a trace or an evaluation: tables for a terminal, CSV and JSON for scripts."""

from .quantities import large, small
from .terminal import estimate_tables, evaluation_table, hardware_table, trace_table
from .text import estimate_csv, trace_json

__all__ = [
    "estimate_csv", "estimate_tables", "evaluation_table", "hardware_table", "large", "small", "trace_json", "trace_table",
]  # fmt: skip
