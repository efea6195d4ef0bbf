"""What limits this process besides its machine: Linux control groups, version 1 and 2, and ``ulimit``."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil


def cgroup_cores(root: Path) -> float:
    """Read the CPU quota of the control groups that hold this process.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are mounted.

    Returns
    -------
    float
        Cores' worth of time, infinite without a quota.
    """
    quotas = [math.inf]
    for group in _cgroups("cpu", root):
        version_1 = (text_of(group / f"cpu.cfs_{what}_us") for what in ("quota", "period"))
        limit = text_of(group / "cpu.max") or " ".join(version_1)
        if numbers := re.fullmatch(r"(\d+)\s+(\d+)\s*", limit):  # "max" and -1 mean no quota
            quotas.append(int(numbers[1]) / int(numbers[2]))
    return min(quotas)


def cgroup_memory(root: Path) -> tuple[float, float]:
    """Read the memory limits of the control groups that hold this process.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` are mounted.

    Returns
    -------
    tuple of float
        The tightest limit, and what is left of the one that is nearest to being used up, in bytes; infinite
        without a limit.
    """
    limits, left = [math.inf], [math.inf]
    for group in _cgroups("memory", root):
        files = ("memory.max", "memory.high", "memory.limit_in_bytes")
        limit = min(
            (int(text) for text in (text_of(group / file) for file in files) if text.strip().isdigit()),
            default=0,
        )
        used = text_of(group / "memory.current") or text_of(group / "memory.usage_in_bytes")
        if limit and used:
            limits.append(limit)
            left.append(limit - int(used) + _reclaimable(text_of(group / "memory.stat")))
    return min(limits), min(left)


def own_memory() -> tuple[float, float]:
    """Read the limits of this process alone, as ``ulimit -d`` and ``ulimit -v`` set them on Linux.

    Returns
    -------
    tuple of float
        The tighter limit, and what is left of the one that is nearer to being used up, in bytes; infinite without a
        limit.
    """
    limits, left = [math.inf], [math.inf]
    if sys.platform == "linux":
        process = psutil.Process()
        held = process.memory_info()
        for kind, used in ((psutil.RLIMIT_DATA, held.data), (psutil.RLIMIT_AS, held.vms)):
            if (limit := process.rlimit(kind)[0]) != psutil.RLIM_INFINITY:
                limits.append(limit)
                left.append(limit - used)
    return min(limits), min(left)


def _reclaimable(stat: str) -> int:
    # Version 1 counts nested groups in total_* only; version 2 has no such names and always counts them.
    prefix = "total_" if "total_inactive_file" in stat else ""
    return sum(int(n) for n in re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", stat, re.MULTILINE))


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """List the groups that hold this process, innermost first: each of them can limit it."""
    for line in text_of(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        mount = root / "sys/fs/cgroup"
        if controller in controllers.split(","):
            mount /= controller
        elif controllers:
            continue
        # A container may see its path as the host does, or as "/../..": the levels it cannot see are absent.
        inner = PurePosixPath("" if ".." in path else path.lstrip("/"))
        yield from (mount / level for level in (inner, *inner.parents))


def text_of(file: Path) -> str:
    """Read one of the kernel's files; nothing where there is none."""
    try:
        return file.read_text()
    except OSError:
        return ""
