"""What the code leans on of Ray's private API, as read in this version; a test fails when any of it moves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

READ_IN = "2.60.0"

# Each with the names of its parameters; None for what is not called.
API: dict[str, str | None] = {
    "ray._private.ray_constants.ENABLE_RAY_CLUSTER": None,
}
INHERITED = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # by which the processes that Ray starts are told the same


@contextmanager
def on_loopback() -> Iterator[None]:
    """Let a cluster that is started here listen on loopback alone, as Ray does by itself on macOS and Windows."""
    from ray._private import ray_constants

    with patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False), patch.dict(os.environ, {INHERITED: "0"}):
        yield
