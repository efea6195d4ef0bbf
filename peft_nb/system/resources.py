"""What the machine gives: how many cores, how much memory, which device.

Host memory is not container memory and host cores are not container cores: what :mod:`.limits` reads counts as well.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from peft_nb.errors import RunError
from peft_nb.system.limits import cgroup_cores, cgroup_memory, own_memory, text_of

MB = 1_000_000

ROOT = Path("/")
THREADS = ("PEFT_NB_THREADS", "OMP_NUM_THREADS")  # ours counts for several processes: torchrun sets the other to 1


def cores(root: Path = ROOT) -> int:
    """Count the processor cores that this process may use.

    Parameters
    ----------
    root : Path, default "/"
        Where ``proc`` and ``sys`` are mounted.

    Returns
    -------
    int
        The smaller of the CPU affinity and the control groups' quota (rounded down, as spinning threads
        beyond it are throttled), at least 1.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(affinity, cgroup_cores(root))))


def worker_threads(processes: int) -> int:
    """Share the cores among processes that compute at the same time.

    Parameters
    ----------
    processes : int
        How many there are.

    Returns
    -------
    int
        Threads for each of them, at least 1.
    """
    return max(1, cores() // processes)


def memory_limit_mb(root: Path = ROOT) -> float:
    """Measure the memory that this process and its neighbours in the container may use together.

    Parameters
    ----------
    root : Path, default "/"
        Where ``proc`` and ``sys`` are mounted.

    Returns
    -------
    float
        The smallest of the host's memory, the limits of all enclosing control groups and ``ulimit``'s, in MB (10^6
        bytes).
    """
    return min(psutil.virtual_memory().total, cgroup_memory(root)[0], own_memory()[0]) / MB


def memory_available_mb(root: Path = ROOT) -> float:
    """Measure the memory that can still be taken without swapping or being killed.

    Parameters
    ----------
    root : Path, default "/"
        Where ``proc`` and ``sys`` are mounted.

    Returns
    -------
    float
        The smallest of what the host, each enclosing control group and ``ulimit`` leave, in MB (10^6 bytes). File
        pages that the kernel can drop count as free.
    """
    return max(0.0, min(psutil.virtual_memory().available, cgroup_memory(root)[1], own_memory()[1])) / MB


def process_memory_mb() -> float:
    """Measure the resident memory of this process.

    Returns
    -------
    float
        In MB (10^6 bytes).
    """
    return psutil.Process().memory_info().rss / MB


def peak_memory_mb() -> float:
    """Measure the highest resident memory of this process since it started.

    Returns
    -------
    float
        In MB (10^6 bytes).
    """
    # On Linux ru_maxrss survives exec, so a small process would report the peak of its parent.
    if sys.platform == "linux" and (peak := re.search(r"VmHWM:\s+(\d+) kB", text_of(ROOT / "proc/self/status"))):
        return int(peak[1]) * 1024 / MB
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB


def device_memory_mb(device: str) -> float:
    """Measure the memory that this process holds of a device: of a GPU what PyTorch has taken, else what is resident.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda`` or ``mps``.

    Returns
    -------
    float
        In MB (10^6 bytes).
    """
    if device != "cuda":
        return process_memory_mb()
    import torch

    return torch.cuda.memory_reserved() / MB


def device_available_mb(device: str) -> float:
    """Measure the memory of a device that this process can still take, in MB (10^6 bytes).

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda`` or ``mps``.

    Returns
    -------
    float
        Of a GPU what is free, and what PyTorch has taken and does not use; else :func:`memory_available_mb`.
    """
    if device != "cuda":
        return memory_available_mb()
    import torch

    return (torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) / MB


def give_back_memory(device: str = "cpu") -> None:
    """Return to the system what was freed, on a device too, as far as the allocators can."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
    trim_memory()


_aside = False  # by a training
_others = False  # by somebody who wants it so for longer: not counted again, which takes as long as a collection


@contextmanager
def set_aside() -> Iterator[None]:
    """Let collections of garbage, while this lasts, look only at what was made since.

    A training collects several times, and would each time look for half a second through what the libraries and the
    notebook have made.
    """
    global _aside, _others
    gc.collect()
    _others = _others or (not _aside and gc.get_freeze_count() > 0)
    if _aside or _others:
        yield
        return
    gc.freeze()
    _aside = True
    try:
        yield
    finally:
        gc.unfreeze()
        _aside = False


def collect() -> None:
    """Collect garbage, among what is set aside too."""
    if _aside:
        gc.unfreeze()
    gc.collect()
    if _aside:
        gc.freeze()


def trim_memory() -> None:
    """Return to the system what was freed on the host, as far as the allocator can; takes some 30 ms in a training."""
    with suppress(OSError, AttributeError, TypeError):  # the allocator is not glibc's
        ctypes.CDLL(None).malloc_trim(0)


class PeakMemory:
    """Measure the highest resident memory of this process between entering and leaving a ``with`` block.

    What was freed before is given back first, so that one block's peak is not hidden in another's leftovers. Linux
    lets the kernel's own record be reset (``man 5 proc``, clear_refs); elsewhere, or where that is forbidden, ``mb``
    is the highest since the process started.

    Parameters
    ----------
    device : str, default "cpu"
        Where it computes.

    Attributes
    ----------
    mb : float
        The peak in MB (10^6 bytes), once the block has ended; of a GPU, where that is the device.
    host_mb : float
        That of the process, wherever it computes.
    """

    mb = host_mb = 0.0

    def __init__(self, device: str = "cpu") -> None:
        self._device = device

    def __enter__(self) -> PeakMemory:
        give_back_memory(self._device)
        with suppress(OSError):
            (ROOT / "proc/self/clear_refs").write_text("5")
        if self._device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *raised: object) -> None:
        self.mb = self.host_mb = peak_memory_mb()
        if self._device == "cuda":
            import torch

            self.mb = torch.cuda.max_memory_reserved() / MB


def rank() -> int:
    """Which of several training processes this is, as ``torchrun`` numbers them; 0 when there is one."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """How many processes train together, as ``torchrun`` says; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_processes() -> int:
    """How many of the processes that train together are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes()))


def local_rank() -> int:
    """Which of those on this machine this is; the first writes what all of them read."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def threads() -> int:
    """How many threads this one of several processes computes with: as many as it was given, else its share."""
    return int(os.environ.get(THREADS[0], 0)) or worker_threads(local_processes())


def device(name: str = "auto") -> str:
    """Choose the device to train on; imports torch.

    Parameters
    ----------
    name : str, default "auto"
        ``cpu``, ``cuda``, ``mps``, or ``auto`` for the first there is of cuda, mps and cpu.

    Returns
    -------
    str
        A name that torch accepts.

    Raises
    ------
    RunError
        This machine has no such device.
    """
    import torch

    there = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name == "auto":
        return there[0]
    if name not in there:
        raise RunError(f"device: there is no {name!r} here, only {', '.join(there)}; set device to auto")
    return name
