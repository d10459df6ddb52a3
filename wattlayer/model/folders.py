"""Where model files are, by name: the folder that comes with wattlayer and the user's own."""

from __future__ import annotations

import os
from pathlib import Path

from ..files import user_folder


def models_folder() -> Path:
    """Return the folder of shipped models: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def shipped_models() -> list[str]:
    """Return the names of the models that come with wattlayer."""
    return sorted(path.stem for path in models_folder().glob("*.json"))


def user_models_folder() -> Path:
    """Return the folder of this user's own models; it need not exist."""
    return user_folder() / "models"


def user_models() -> list[str]:
    """Return the names of this user's own models."""
    return sorted(path.stem for path in user_models_folder().glob("*.json"))


def model_path(name: str) -> Path | None:
    """Return the file of the model called `name`, the user's own before a shipped one; None where there is neither."""
    paths = (folder / f"{name}.json" for folder in (user_models_folder(), models_folder()))
    return next((path for path in paths if path.is_file()), None)


def is_file_name(text: str) -> bool:
    """Whether `load_model` takes `text` for a file and not for a model or a device, be there one or not."""
    return text.endswith(".json") or os.sep in text
