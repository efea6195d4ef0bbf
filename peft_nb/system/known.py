"""Numbers that were measured once and hold for every kernel: small JSON files in the user's cache.

A file is named by a hash of all that its numbers depend on, and holds the numbers alone: no text, no name.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir

from peft_nb.errors import StoreError
from peft_nb.system import resources
from peft_nb.system.files import atomic_text

VERSION = 2  # to be raised when the same thing is measured otherwise
LIMITS = ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS")  # of libraries
FOLDER = f"measured-{VERSION}"


def root() -> Path:
    """Say where what is prepared or measured once is kept: ``$PEFT_NB_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("PEFT_NB_CACHE") or user_cache_dir("peft_nb", appauthor=False)
    return Path(chosen).expanduser().resolve()


@cache
def machine() -> dict[str, Any]:
    """What measured times depend on: the processor and what libraries may use of it, the cores, PyTorch's version."""
    names = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names += sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    names += [f"{name}={os.environ.get(name)}" for name in LIMITS]
    return {"processor": names, "cores": resources.cores(), "torch": metadata.version("torch")}


def recall(kind: str, about: Mapping[str, Any], days: float | None = None) -> Any:
    """Find what was kept.

    Parameters
    ----------
    kind : str
        What was measured, as a part of a file's name.
    about : mapping
        All that it depends on, as JSON could hold it.
    days : float, optional
        After which it is of no use any more: a time taken while the machine was busy is not to last.

    Returns
    -------
    object
        What :func:`keep` was given, or None.
    """
    file = _file(kind, about)
    with suppress(OSError, ValueError):
        if days is None or time.time() - file.stat().st_mtime < days * 86_400:
            return json.loads(file.read_text(encoding="utf-8"))
    return None


def keep(kind: str, about: Mapping[str, Any], numbers: Any) -> None:
    """Keep what was measured, unless the cache cannot be written; parameters as of :func:`recall`."""
    file = _file(kind, about)
    with suppress(OSError, StoreError):
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_text(file, json.dumps(numbers))


def once(kind: str, about: Mapping[str, Any], measure: Callable[[], Any], days: float | None = None) -> Any:
    """Recall what was kept, or measure and keep it; parameters as of :func:`recall`."""
    found = recall(kind, about, days)
    if found is None:
        keep(kind, about, found := measure())
    return found


def _file(kind: str, about: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
    return root() / FOLDER / f"{kind}-{digest[:32]}.json"
