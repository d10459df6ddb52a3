"""`wattlayer hardware`."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .output import rendered, write


@app.command()
def hardware(name: Annotated[str | None, typer.Argument(help="One device.")] = None) -> None:
    """What is known of devices, and for which a model is trained."""
    from dataclasses import asdict

    from ..hardware import HARDWARE, find_hardware
    from ..model import shipped_models
    from ..report import hardware_table

    if name is None:
        write(rendered(hardware_table(list(HARDWARE.values()), shipped_models())), None)
    else:
        facts = asdict(find_hardware(name)) | {"trained": name in shipped_models()}
        write("".join(f"{key}: {value}\n" for key, value in facts.items()), None)
