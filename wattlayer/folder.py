"""Where a user's own files live: trained models and a `hardware.toml`, apart from what wattlayer ships."""

from __future__ import annotations

import os
from pathlib import Path


def user_folder() -> Path:
    """Return the folder of this user's models and devices; it need not exist.

    `WATTLAYER_HOME` where it is set, else the platform's place for an application's data; where a user has no home (a container
    that runs as a number), a place where nothing can be.
    """
    if home := os.environ.get("WATTLAYER_HOME"):
        return Path(home)
    try:
        return _data_folder() / "wattlayer"
    except RuntimeError:  # what pathlib and platformdirs say of no home
        return Path(os.devnull) / "wattlayer"


def _data_folder() -> Path:
    try:
        from platformdirs import user_data_path
    except ImportError:  # measuring works from a checkout, with torch, numpy and a meter's library alone; this is Linux's place
        return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    return user_data_path(appauthor=False)
