"""A container's quota of cores is obeyed, in both versions of control groups, nested too."""

import os

import pytest

from run.engine import cores


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A function that makes /proc/self/cgroup and files below /sys/fs/cgroup; it has 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)

    def make(cgroup, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(cgroup)
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "350000 100000\n"}, 3),  # rounded down
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),  # but at least one
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "900000 100000"}, 4),
        ("0::/a/b\n", {"a/b/cpu.max": "900000 100000", "a/cpu.max": "400000 100000"}, 4),
        ("0::/../of/host\n", {"cpu.max": "300000 100000"}, 3),
        (
            "4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n",
            {
                "cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (  # in the container the mount is the group
            "4:cpu,cpuacct:/docker/x\n",
            {"cpu/cpu.cfs_quota_us": "700000", "cpu/cpu.cfs_period_us": "100000"},
            7,
        ),
        (
            "4:cpu:/a/b\n",
            {
                "cpu/a/b/cpu.cfs_quota_us": "-1",
                "cpu/a/b/cpu.cfs_period_us": "100000",
                "cpu/a/cpu.cfs_quota_us": "500000",
                "cpu/a/cpu.cfs_period_us": "100000",
            },
            5,
        ),
        ("5:memory:/a\n0::/a\n", {"a/cpu.max": "600000 100000"}, 6),  # both versions at once
        ("0::/\n", {"cpu.max": "nonsense"}, 64),
        ("0::/\n", {"cpu.max": "100000 0"}, 64),
        ("", {}, 64),
    ],
)
def test_quotas(system, cgroup, files, expected):
    assert cores.available_cpus(system(cgroup, files)) == expected


def test_a_system_without_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(3), raising=False)
    assert cores.available_cpus(tmp_path) == 3
