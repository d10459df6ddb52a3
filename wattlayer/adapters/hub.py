"""Configurations on the Hugging Face hub: from the cache, else fetched, and never waited for long."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError

LONGEST_WAIT_S = 8.0
"""After this the hub counts as out of reach; on a machine without network a name must not hang the command."""


def fetch_config(name: str) -> Path:
    """Return the local path of a hub id's config.json; raise InputError where it is neither cached nor in reach."""
    try:
        return _cached(name) or within(LONGEST_WAIT_S, lambda: _download(name))
    except Exception as error:  # of the network, the hub or the name
        reason = f"hf:{name} is no model type, and its configuration is neither cached nor in reach ({type(error).__name__})"
        raise InputError(f"{reason}: give a config.json, as in hf:path/to/config.json") from error


def _cached(name: str) -> Path | None:
    import huggingface_hub

    path = huggingface_hub.try_to_load_from_cache(name, "config.json")
    return Path(path) if isinstance(path, str) else None


def _download(name: str) -> Path:
    import huggingface_hub

    # a plain request first: without a network the download itself would be tried again and again for minutes
    huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(name, "config.json"), timeout=LONGEST_WAIT_S / 2)
    return Path(huggingface_hub.hf_hub_download(name, "config.json"))


def within(limit_s: float, call: Callable[[], Any]) -> Any:
    """Return `call()`; raise TimeoutError after `limit_s` seconds, a limit that name resolution alone would not keep."""
    results: list[Any] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:  # raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {limit_s:g} s")
    return results[0]
