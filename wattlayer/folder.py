"""Where a user's own files live: trained models and a `hardware.toml`, apart from what wattlayer ships."""

from __future__ import annotations

import os
from pathlib import Path


def user_folder() -> Path:
    """Return the folder of this user's models and devices; it need not exist.

    `WATTLAYER_HOME` where it is set, else the platform's place for an application's data.
    """
    if home := os.environ.get("WATTLAYER_HOME"):
        return Path(home)
    try:
        from platformdirs import user_data_path
    except ImportError:  # measuring works from a checkout, with torch, numpy and a meter's library alone; this is Linux's place
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "wattlayer"
    return user_data_path("wattlayer", appauthor=False)
