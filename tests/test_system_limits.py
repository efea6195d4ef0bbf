"""What Linux sets this process as limits, from files as kernels write them and from this process itself."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from peft_nb.system.limits import cgroup_cores, cgroup_memory, own_memory, text_of

REPO = Path(__file__).parents[1]
GROUP = "sys/fs/cgroup/pod"
HIGH = {"memory.high": "700", "memory.max": "max", "memory.current": "500", "memory.stat": "inactive_file 40"}


def root(tmp_path: Path, files: dict[str, str]) -> Path:
    """Lay out a control group of version 2 whose member this process is."""
    files = {"proc/self/cgroup": "0::/pod", **{f"{GROUP}/{name}": text for name, text in files.items()}}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    return tmp_path


def test_a_quota_is_a_share_of_its_period(tmp_path: Path) -> None:
    assert cgroup_cores(root(tmp_path, {"cpu.max": "250000 100000"})) == 2.5
    assert cgroup_cores(root(tmp_path, {"cpu.max": "max 100000"})) == math.inf


def test_what_slows_down_limits_as_what_kills(tmp_path: Path) -> None:
    assert cgroup_memory(root(tmp_path, HIGH)) == (700, 240)  # 40 of the 500 used can be dropped


def test_a_limit_whose_use_is_not_told_does_not_count(tmp_path: Path) -> None:
    assert cgroup_memory(root(tmp_path, {"memory.max": "700"})) == (math.inf, math.inf)


@pytest.mark.parametrize("kind", ["RLIMIT_DATA", "RLIMIT_AS"])
def test_ulimit_is_read_on_linux(kind: str) -> None:
    code = (
        f"import resource; resource.setrlimit(resource.{kind}, (4 << 30, 4 << 30))\n"
        "from peft_nb.system.limits import own_memory; print(*own_memory())"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    limit, left = map(float, ran.stdout.split())
    assert limit == (4 << 30 if sys.platform == "linux" else math.inf)
    assert 0 < left <= limit


def test_what_is_left_is_at_most_the_limit() -> None:
    limit, left = own_memory()
    assert left <= limit


def test_a_file_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert text_of(tmp_path / "absent") == ""
    (tmp_path / "there").write_text("max\n")
    assert text_of(tmp_path / "there") == "max\n"
