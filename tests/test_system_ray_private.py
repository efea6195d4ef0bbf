"""Ray's private API is where it was, and a cluster that is started here is reached from this machine alone."""

from __future__ import annotations

import os

from ray._private import ray_constants

from peft_nb.system import ray_private
from tests.private_api import as_found


def test_all_of_it_is_where_it_was_read() -> None:
    assert as_found(ray_private.API) == ray_private.API


def test_a_cluster_listens_on_loopback_only_while_it_is_started() -> None:
    before = ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(ray_private.INHERITED)
    with ray_private.on_loopback():
        assert (ray_constants.ENABLE_RAY_CLUSTER, os.environ[ray_private.INHERITED]) == (False, "0")
    assert (ray_constants.ENABLE_RAY_CLUSTER, os.environ.get(ray_private.INHERITED)) == before
