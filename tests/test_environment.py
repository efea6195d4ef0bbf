"""What the process may use, read from control-group files as kernels write them and from this machine."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from peft_nb import environment
from peft_nb.environment import MB
from peft_nb.errors import RunError

REPO = Path(environment.__file__).parents[1]


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
    assert environment.cgroup_memory(root) == (4000, 600)  # the pod's limit, but its parent is nearly full
    assert environment.cgroup_cores(root) == 1.5
    assert environment.cores(root) == 1
    assert environment.memory_limit_mb(root) == 4000 / MB
    assert environment.memory_available_mb(root) == 600 / MB


def test_version_2_inside_a_container_has_its_limit_at_the_mount(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/memory.max": "1000",
        "sys/fs/cgroup/memory.current": "900",
        "sys/fs/cgroup/memory.stat": STAT,
    }
    assert environment.cgroup_memory(tree(tmp_path, "0::/", files)) == (1000, 360)
    assert environment.cgroup_memory(tree(tmp_path, "0::/../../other", files)) == (1000, 360)


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
    assert environment.cgroup_memory(root) == (2000, 450)
    assert environment.cgroup_cores(root) == 0.5
    assert environment.cores(root) == 1


def test_a_container_that_sees_the_path_of_its_host_is_read_at_the_mount(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "5:memory:/docker/ab12",
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000",
        },
    )
    assert environment.cgroup_memory(root) == (3000, 2000)


def test_without_limits_the_host_decides(tmp_path: Path) -> None:
    for root in (tmp_path / "no-linux", tree(tmp_path / "linux", "0::/user.slice", {})):
        assert environment.cgroup_memory(root) == (math.inf, math.inf)
        assert environment.cgroup_cores(root) == math.inf
        assert environment.memory_limit_mb(root) == psutil.virtual_memory().total / MB


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.max": "1000", "sys/fs/cgroup/memory.current": "1200"}
    assert environment.memory_available_mb(tree(tmp_path, "0::/", files)) == 0


def test_this_machine_is_read() -> None:
    assert 1 <= environment.cores() <= (os.cpu_count() or 1)
    assert environment.worker_threads(1) == environment.cores()
    assert environment.worker_threads(1000) == 1
    limit = environment.memory_limit_mb()
    assert 100 < limit <= psutil.virtual_memory().total / MB
    assert 0 < environment.memory_available_mb() < limit
    assert 5 < environment.process_memory_mb() <= environment.peak_memory_mb() * 1.001 < limit


def test_memory_that_was_taken_and_given_back_shows_in_the_peak_alone() -> None:
    # A process of its own: this one may have had a higher peak before.
    code = """if True:
        from peft_nb.environment import peak_memory_mb, process_memory_mb
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
        from peft_nb.environment import memory_available_mb, memory_limit_mb
        resource.setrlimit(resource.RLIMIT_{kind}, ({limit}_000_000,) * 2)
        free = memory_available_mb()
        block = bytes(range(256)) * 800_000  # 205 MB
        print(memory_limit_mb(), free, memory_available_mb())
    """
    allowed, free, left = map(float, run(code).split())
    assert allowed == limit
    assert left < free < limit
    assert free - left == pytest.approx(205, abs=15)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an earlier peak")
def test_each_block_has_a_peak_of_its_own() -> None:
    code = """if True:
        from peft_nb.environment import PeakMemory, process_memory_mb
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
        from peft_nb.environment import PeakMemory, process_memory_mb
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


def test_rank_and_processes_are_what_torchrun_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (environment.rank(), environment.processes()) == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (environment.rank(), environment.processes()) == (1, 2)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds processes to cores")
def test_cores_follow_the_affinity() -> None:
    code = """if True:
        import os
        from peft_nb.environment import cores
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(cores())
    """
    output = run(code)
    assert output.strip() == "1"


def test_a_plain_process_is_a_terminal_and_imports_nothing_heavy() -> None:
    code = """if True:
        import sys
        from peft_nb.environment import frontend
        print(frontend(), {"torch", "IPython", "numpy"} & sys.modules.keys())
    """
    output = run(code)
    assert output.strip() == "terminal set()"


@pytest.mark.parametrize(
    ("frontend", "kernel", "lab", "heard"),
    [
        ("jupyterlab", (7, 1), "4.4.0", True),
        ("jupyterlab", (7, 4), None, True),
        ("jupyterlab", (7, 4), "4.3.8", False),
        ("jupyterlab", (6, 29), "4.6.6", False),
        ("vscode", (7, 4), "4.6.6", False),
        ("colab", (7, 4), None, False),
    ],
)
def test_where_a_press_reaches_a_kernel_that_is_busy(
    monkeypatch: pytest.MonkeyPatch, frontend: str, kernel: tuple[int, int], lab: str | None, heard: bool
) -> None:
    def version(package: str) -> str:
        if lab is None:
            raise environment.metadata.PackageNotFoundError(package)
        return lab

    monkeypatch.setattr(environment, "frontend", lambda: frontend)
    monkeypatch.setattr(environment.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace(version_info=(*kernel, 0)))
    assert environment.comms_while_busy() == heard


@pytest.mark.notebook
def test_frontends_are_told_apart_in_a_real_kernel() -> None:
    manager_module = pytest.importorskip("jupyter_client.manager")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("VSCODE_", "JPY_SESSION", "COLAB_"))}
    manager, client = manager_module.start_new_kernel(
        kernel_name="python3", cwd=str(REPO), env=clean, startup_timeout=60
    )

    def ask(code: str) -> str:
        reply = client.execute_interactive(code, user_expressions={"told": "frontend()"}, output_hook=print, timeout=30)
        return str(reply["content"]["user_expressions"]["told"]["data"]["text/plain"]).strip("'")

    try:
        assert ask("import os, sys, types\nfrom peft_nb.environment import frontend") == "notebook-headless"
        assert ask("os.environ['JPY_SESSION_NAME'] = '/work/tickets.ipynb'") == "jupyterlab"
        assert ask("os.environ['VSCODE_CWD'] = '/'") == "vscode"
        assert ask("sys.modules['google.colab'] = types.ModuleType('google.colab')") == "colab"
        assert ask("__vsc_ipynb_file__ = 'tickets.ipynb'") == "vscode"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_the_device_is_one_that_is_there() -> None:
    torch = pytest.importorskip("torch")
    there = {"cpu"}
    if torch.cuda.is_available():
        there.add("cuda")
    if torch.backends.mps.is_available():
        there.add("mps")
    assert environment.device("cpu") == "cpu"
    assert environment.device() in (there - {"cpu"} or there)
    for name in {"cuda", "mps", "tpu"} - there:
        with pytest.raises(RunError, match=rf"device: there is no '{name}' here, only .*cpu; set device to auto"):
            environment.device(name)
