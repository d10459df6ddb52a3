"""Measuring the energy of layers: `measure` for one layer, `run_campaign` for a dataset, `python -m wattlayer.measure`.

Needs torch, numpy and a meter's library only. Nothing below knows which rig it runs on: a clock, a meter and a runner
are handed in (`rig.Rig`), and the tests hand in simulated ones.
"""

from __future__ import annotations

from .campaign import Campaign
from .estimator import Noise
from .rig import Item, NetworkCall, Rig
from .row import measure
from .run import Options, run_campaign
from .summary import Summary, Tick
from .window import Policy

__all__ = ["Campaign", "Item", "NetworkCall", "Noise", "Options", "Policy", "Rig", "Summary", "Tick", "measure", "run_campaign"]
