"""The order of the pages: those named here first, as far as they are there, then any other page of the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGES = (
    "index",
    "cli",
    "networks",
    "generation",
    "hardware",
    "report",
    "gate",
    "fusion",
    "nas",
    "measuring",
    "training",
    "formats",
    "method",
    "limits",
    "api",
)


def on_config(config: Any) -> Any:
    """Give mkdocs its navigation."""
    found = {path.stem for path in Path(config["docs_dir"]).glob("*.md")}
    config["nav"] = [f"{name}.md" for name in (*(p for p in PAGES if p in found), *sorted(found - set(PAGES)))]
    return config
