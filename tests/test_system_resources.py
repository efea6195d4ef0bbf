"""What the process may use, read from control-group files as kernels write them and from this machine."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from peft_nb.errors import RunError
from peft_nb.system import resources
from peft_nb.system.resources import MB

REPO = Path(__file__).parents[1]


def run(code: str) -> str:
    """Run code in a process of its own and return what it prints."""
    return subprocess.run([sys.executable, "-c", code], cwd=REPO, stdout=subprocess.PIPE, text=True, check=True).stdout


def tree(root: Path, membership: str, files: dict[str, str]) -> Path:
    """Lay out the files of control groups as a kernel shows them."""
    for name, text in {"proc/self/cgroup": membership, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


STAT = "anon 700\nfile 300\nshmem 40\ninactive_anon 600\nactive_anon 140\ninactive_file 200\nactive_file 60"


def test_version_2_takes_the_tightest_of_all_enclosing_groups(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "0::/kubepods/pod7/lab",
        {
            "sys/fs/cgroup/kubepods/pod7/lab/memory.max": "max",
            "sys/fs/cgroup/kubepods/pod7/lab/memory.current": "900",
            "sys/fs/cgroup/kubepods/pod7/lab/memory.stat": STAT,
            "sys/fs/cgroup/kubepods/pod7/lab/cpu.max": "max 100000",
            "sys/fs/cgroup/kubepods/pod7/memory.max": "5000",
            "sys/fs/cgroup/kubepods/pod7/memory.high": "4000",
            "sys/fs/cgroup/kubepods/pod7/memory.current": "1000",
            "sys/fs/cgroup/kubepods/pod7/memory.stat": STAT,
            "sys/fs/cgroup/kubepods/pod7/cpu.max": "150000 100000",
            "sys/fs/cgroup/kubepods/memory.max": "9000",
            "sys/fs/cgroup/kubepods/memory.current": "8500",
            "sys/fs/cgroup/kubepods/memory.stat": "inactive_file 0\nactive_file 100",
            "sys/fs/cgroup/kubepods/cpu.max": "400000 100000",
        },
    )
    assert resources.cgroup_memory(root) == (4000, 600)  # the pod's limit, but its parent is nearly full
    assert resources.cgroup_cores(root) == 1.5
    assert resources.cores(root) == 1
    assert resources.memory_limit_mb(root) == 4000 / MB
    assert resources.memory_available_mb(root) == 600 / MB


def test_version_2_inside_a_container_has_its_limit_at_the_mount(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory.max": "1000",
        "sys/fs/cgroup/memory.current": "900",
        "sys/fs/cgroup/memory.stat": STAT,
    }
    assert resources.cgroup_memory(tree(tmp_path, "0::/", files)) == (1000, 360)
    assert resources.cgroup_memory(tree(tmp_path, "0::/../../other", files)) == (1000, 360)


def test_version_1_reads_the_hierarchy_of_each_controller(tmp_path: Path) -> None:
    memory, cpu = "sys/fs/cgroup/memory", "sys/fs/cgroup/cpu"
    root = tree(
        tmp_path,
        "12:memory:/docker/ab12\n7:cpu,cpuacct:/docker/ab12\n1:name=systemd:/docker/ab12\n0::/",
        {
            f"{memory}/memory.limit_in_bytes": "9223372036854771712",
            f"{memory}/memory.usage_in_bytes": "50000",
            f"{memory}/memory.stat": STAT,
            f"{memory}/docker/ab12/memory.limit_in_bytes": "2000",
            f"{memory}/docker/ab12/memory.usage_in_bytes": "1900",
            f"{memory}/docker/ab12/memory.stat": "inactive_file 1\nactive_file 2\n"
            "total_inactive_file 300\ntotal_active_file 50",
            f"{cpu}/cpu.cfs_quota_us": "-1",
            f"{cpu}/cpu.cfs_period_us": "100000",
            f"{cpu}/docker/ab12/cpu.cfs_quota_us": "50000",
            f"{cpu}/docker/ab12/cpu.cfs_period_us": "100000",
        },
    )
    assert resources.cgroup_memory(root) == (2000, 450)
    assert resources.cgroup_cores(root) == 0.5
    assert resources.cores(root) == 1


def test_a_container_that_sees_the_path_of_its_host_is_read_at_the_mount(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "5:memory:/docker/ab12",
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000",
        },
    )
    assert resources.cgroup_memory(root) == (3000, 2000)


def test_without_limits_the_host_decides(tmp_path: Path) -> None:
    for root in (tmp_path / "no-linux", tree(tmp_path / "linux", "0::/user.slice", {})):
        assert resources.cgroup_memory(root) == (math.inf, math.inf)
        assert resources.cgroup_cores(root) == math.inf
        assert resources.memory_limit_mb(root) == psutil.virtual_memory().total / MB


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": "1000", "sys/fs/cgroup/memory.current": "1200"}
    assert resources.memory_available_mb(tree(tmp_path, "0::/", files)) == 0


def test_this_machine_is_read() -> None:
    assert 1 <= resources.cores() <= (os.cpu_count() or 1)
    assert resources.worker_threads(1) == resources.cores()
    assert resources.worker_threads(1000) == 1
    limit = resources.memory_limit_mb()
    assert 100 < limit <= psutil.virtual_memory().total / MB
    assert 0 < resources.memory_available_mb() < limit
    assert 5 < resources.process_memory_mb() <= resources.peak_memory_mb() * 1.001 < limit


def test_memory_that_was_taken_and_given_back_shows_in_the_peak_alone() -> None:
    # A process of its own: this one may have had a higher peak before.
    code = """if True:
        from peft_nb.system.resources import peak_memory_mb, process_memory_mb
        before = process_memory_mb()
        block = bytes(range(256)) * 800_000  # 205 MB
        held = process_memory_mb()
        del block
        print(before, held, process_memory_mb(), peak_memory_mb())
    """
    output = run(code)
    before, held, after, peak = map(float, output.split())
    assert held - before == pytest.approx(205, abs=15)
    assert after < before + 15
    assert peak == pytest.approx(held, abs=15)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process allocates")
@pytest.mark.parametrize(("kind", "limit"), [("DATA", 900), ("AS", 3000)])
def test_what_ulimit_allows_counts_too(kind: str, limit: int) -> None:
    code = f"""if True:
        import resource
        from peft_nb.system.resources import memory_available_mb, memory_limit_mb
        resource.setrlimit(resource.RLIMIT_{kind}, ({limit}_000_000,) * 2)
        free = memory_available_mb()
        block = bytes(range(256)) * 800_000  # 205 MB
        print(memory_limit_mb(), free, memory_available_mb())
    """
    allowed, free, left = map(float, run(code).split())
    assert allowed == limit
    assert left < free < limit
    assert free - left == pytest.approx(205, abs=15)


def test_of_a_gpu_the_memory_is_the_gpus_with_the_hosts_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    amounts = {"memory_reserved": 3000 * MB, "memory_allocated": 1000 * MB, "max_memory_reserved": 5000 * MB}
    for name, value in amounts.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7000 * MB, 16000 * MB))
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    assert (resources.device_memory_mb("cuda"), resources.device_available_mb("cuda")) == (3000, 9000)
    with resources.PeakMemory("cuda") as peak:
        pass
    assert peak.mb == 5000
    assert 5 < peak.host_mb < resources.memory_limit_mb()
    assert resources.device_memory_mb("cpu") == pytest.approx(resources.process_memory_mb(), rel=0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an earlier peak")
def test_each_block_has_a_peak_of_its_own() -> None:
    code = """if True:
        from peft_nb.system.resources import PeakMemory, process_memory_mb
        base = process_memory_mb()
        with PeakMemory() as large:
            block = bytes(range(256)) * 800_000  # 205 MB
            del block
        with PeakMemory() as small:
            block = bytes(range(256)) * 200_000  # 51 MB
            del block
        print(large.mb - base, small.mb - base)
    """
    output = run(code)
    large, small = map(float, output.split())
    assert large == pytest.approx(205, abs=15)
    assert small == pytest.approx(51, abs=15)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives memory back when asked")
def test_leftovers_of_one_block_do_not_hide_the_peak_of_the_next() -> None:
    code = """if True:
        from peft_nb.system.resources import PeakMemory, process_memory_mb
        base = process_memory_mb()
        pieces = [b"x" * 20_000 for _ in range(10_000)]  # 200 MB below the last piece, which stays
        del pieces[:-1]
        kept = process_memory_mb() - base
        with PeakMemory() as after:
            pass
        print(kept, after.mb - base)
    """
    kept, after = map(float, run(code).split())
    assert kept > 150
    assert after < 20


class Cycle:
    """Only a collection of garbage frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def nothing_set_aside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    set_aside = gc.get_freeze_count()
    gc.unfreeze()
    monkeypatch.setattr(resources, "_others", False)
    yield
    if set_aside:
        gc.freeze()


@pytest.mark.usefixtures("nothing_set_aside")
def test_what_was_there_before_is_looked_at_by_a_whole_collection_alone() -> None:
    old = Cycle()
    known = weakref.ref(old)
    with resources.set_aside():
        with resources.set_aside():  # of another training
            pass
        new = Cycle()
        made = weakref.ref(new)
        del old, new
        gc.collect()
        assert known()
        assert not made()
        resources.collect()
        assert not known()
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()


@pytest.mark.usefixtures("nothing_set_aside")
def test_what_somebody_has_set_aside_stays_so() -> None:
    gc.freeze()
    for _ in range(2):
        with resources.set_aside():
            pass
    resources.collect()
    assert gc.get_freeze_count()
    gc.unfreeze()


def test_rank_and_processes_are_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (resources.rank(), resources.processes()) == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (resources.rank(), resources.processes()) == (1, 2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes to cores")
def test_cores_follow_the_affinity() -> None:
    code = """if True:
        import os
        from peft_nb.system.resources import cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(cores())
    """
    output = run(code)
    assert output.strip() == "1"


def test_a_plain_process_is_a_terminal_and_imports_nothing_heavy() -> None:
    code = """if True:
        import sys
        from peft_nb.system.frontend import frontend
        print(frontend(), {"torch", "IPython", "numpy"} & sys.modules.keys())
    """
    output = run(code)
    assert output.strip() == "terminal set()"


def test_the_device_is_one_that_is_there() -> None:
    torch = pytest.importorskip("torch")
    there = {"cpu"}
    if torch.cuda.is_available():
        there.add("cuda")
    if torch.backends.mps.is_available():
        there.add("mps")
    assert resources.device("cpu") == "cpu"
    assert resources.device() in (there - {"cpu"} or there)
    for name in {"cuda", "mps", "tpu"} - there:
        with pytest.raises(RunError, match=rf"device: there is no '{name}' here, only .*cpu; set device to auto"):
            resources.device(name)
