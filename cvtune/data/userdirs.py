"""Where cvtune keeps what outlives a run: the pixel cache and the remembered splits. Nothing is created here."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """What may be deleted at any time: CVTUNE_CACHE, or the system's folder for caches."""
    return _folder("CVTUNE_CACHE") or platformdirs.user_cache_path("cvtune", appauthor=False)


def data_dir() -> Path:
    """What is to be kept: CVTUNE_DATA, or the system's folder for a user's data."""
    return _folder("CVTUNE_DATA") or platformdirs.user_data_path("cvtune", appauthor=False)


def _folder(variable: str) -> Path | None:
    text = os.environ.get(variable, "").strip()  # empty counts as unset, as for the XDG variables
    return Path(text).expanduser().absolute() if text else None
