"""What processes know of each other; how two of them train is in ``test_main.py``."""

from __future__ import annotations

from pathlib import Path

from peft_nb.training.gather import gathered
from tests.conftest import Python

TWO = """
import sys
import torch.distributed as dist
from peft_nb.training.gather import gathered

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
print(gathered({"rank": rank}), flush=True)
"""


def test_each_process_knows_of_all_in_the_same_order(python: Python, tmp_path: Path) -> None:
    assert gathered(3) == [3]
    several = [python("-c", TWO, rank, tmp_path / "meeting") for rank in range(2)]
    assert [one.communicate()[0] for one in several] == ["[{'rank': 0}, {'rank': 1}]\n"] * 2
