"""The flags that stop the engine, alone and among several processes."""

from __future__ import annotations

import os
import socket

import pytest

from peft_nb.training.stop import StopFlag, agreed
from tests.conftest import Python

ONE_OF_TWO = """
from accelerate import PartialState
from peft_nb.training.stop import agreed

rank = PartialState(cpu=True).process_index
print(agreed(rank == 0), agreed(rank == 1))
"""


def test_two_flags_are_a_pair_of_each_run() -> None:
    one, other = StopFlag(), StopFlag()
    one.soon.set()
    assert (one.soon.is_set(), one.now.is_set(), other.soon.is_set()) == (True, False, False)


def test_alone_a_process_agrees_with_itself() -> None:
    assert (agreed(True), agreed(False)) == (True, False)


@pytest.mark.exhaustive
def test_of_two_processes_both_think_what_the_first_does(python: Python) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    told = [python("-c", ONE_OF_TWO, env=os.environ | place | {"RANK": str(r), "LOCAL_RANK": str(r)}) for r in (0, 1)]
    assert [process.communicate()[0].strip() for process in told] == ["True False", "True False"]
