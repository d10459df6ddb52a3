"""What the header of a session keeps: enough to judge its rows years later, nothing that identifies a person."""

from __future__ import annotations

import subprocess
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..estimate import VERSION
from .characterise import Character
from .plan import Plan, reference_layer
from .rig import Rig
from .row import Session
from .window import Policy


def session_header(rig: Rig, session: Session, character: Character, plan: Plan, policy: Policy) -> dict[str, Any]:
    """Return the header as plain JSON values; None for what was not found out."""
    dtype = "float16" if "graph" in rig.modes else "float32"
    return {
        "hardware": rig.hardware,
        "run": session.run,
        "began": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "wattlayer": VERSION,
        "commit": commit(),
        "seed": plan.seed,
        "device": rig.describe(),
        "meter": {"name": rig.instrument.name, "label": session.label, **rig.instrument.description},
        "character": character.to_json(),
        "policy": asdict(policy),
        "reference": reference_layer(dtype).to_json(),
    }


def commit() -> str | None:
    """The commit of the checkout that this package runs from; None outside of one (or inside somebody else's)."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD", "--show-prefix"],
            capture_output=True, text=True, timeout=5, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    lines = found.stdout.split()
    return lines[0] if len(lines) == 2 and lines[1] == "wattlayer/measure/" else None
