"""Energy inside a search loop: spaces, a lookup table that is exact, a differentiable penalty and searches."""

from .search import Front, evolve, pareto, sweep
from .space import Genome, Part, Slot, Space, clear_caches
from .spaces import nas_bench_201, once_for_all, vision_transformer
from .table import LookupTable, expected_energy_j

__all__ = [
    "Front", "Genome", "LookupTable", "Part", "Slot", "Space", "clear_caches", "evolve", "expected_energy_j",
    "nas_bench_201", "once_for_all", "pareto", "sweep", "vision_transformer",
]  # fmt: skip
