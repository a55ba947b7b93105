"""Default number of threads: processors of this process within the quota of its container."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cgroup_quota", "default_threads"]


def default_threads() -> int:
    """Return the number of processors that this process may use.

    Those that it is bound to, and no more than the quota of its control group: a container with
    two processors' time on a machine of 64 gets two threads.
    """
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cgroup_quota()
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Return the processors whose time the control groups (version 1 or 2) of this process allow.

    Parameters
    ----------
    root : Path
        Root of the file system with ``proc`` and ``sys``.

    Returns
    -------
    float or None
        The smallest quota of the group and those above it; None without one.
    """
    quotas = []
    for folder in _cgroups(root):
        with contextlib.suppress(OSError, ValueError):
            if (folder / "cpu.max").exists():  # version 2
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if float(quota) > 0:  # "max" is no number; version 1 says -1
                quotas.append(float(quota) / float(period))
    return min(quotas, default=None)


def _cgroups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups, each with those above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup"
        if controllers:
            top = top / "cpu" if (top / "cpu").is_dir() else top / controllers
        group = top / name.strip("/")
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))
