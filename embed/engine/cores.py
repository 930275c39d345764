"""How many cores this process may use: its affinity, and the quota of its control group.

A container's share of a machine is a quota of its control group, or of one above it: the least
along the path counts. (Linux: cgroup-v2.rst, "cpu.max"; cgroup-v1, "cpu.cfs_quota_us".)
"""

import os
from collections.abc import Iterator
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """Return how many cores may be used, at least one; root is where /proc and /sys are."""
    if hasattr(os, "sched_getaffinity"):
        cpus = len(os.sched_getaffinity(0))
    else:
        cpus = os.cpu_count() or 1
    for quota in quotas(root):
        cpus = min(cpus, int(quota))
    return max(1, cpus)


def quotas(root: Path) -> Iterator[float]:
    """Yield the cores that each control group along the path allows."""
    try:
        rows = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for row in rows:
        _, controllers, path = row.split(":", 2)
        for mount, read in mounts(root, controllers):
            # Inside a container the path may be that of the host: then only the mount is there.
            for folder in parents(mount, path):
                quota = read(folder)
                if quota is not None:
                    yield quota


def mounts(root: Path, controllers: str) -> list:
    """Return where the groups of these controllers are, and how a quota is read there."""
    base = root / "sys/fs/cgroup"
    if not controllers:  # version 2 has one hierarchy for all
        return [(base, quota_v2), (base / "unified", quota_v2)]
    if "cpu" in controllers.split(","):
        return [(base / controllers, quota_v1), (base / "cpu", quota_v1)]
    return []


def parents(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group, and of each one above it."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for n in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:n])


def quota_v2(folder: Path) -> float | None:
    """Return the cores that cpu.max ("quota period" or "max period") allows, None for all."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def quota_v1(folder: Path) -> float | None:
    """Return the cores that version 1's two files allow, None for all."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
