"""The table of systems, and what is made of it."""

import json
import platform
import subprocess
import sys

import pytest

from run.engine import systems
from run.packing import interpreters, release
from support.cli import CLEAN, ROOT

NAMES = {  # what Python's platform module says: what this project says
    ("Linux", "x86_64"): "linux-x86_64",
    ("Linux", "aarch64"): "linux-aarch64",
    ("Linux", "riscv64"): "linux-riscv64",
    ("Darwin", "arm64"): "macos-arm64",
    ("Darwin", "x86_64"): "macos-x86_64",
    ("Windows", "AMD64"): "windows-x86_64",
    ("Windows", "ARM64"): "windows-arm64",
    ("FreeBSD", "amd64"): "freebsd-x86_64",
}


def pretend(monkeypatch, system, machine):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)


@pytest.mark.parametrize("uname", NAMES, ids=NAMES.get)
def test_this_system(monkeypatch, uname):
    pretend(monkeypatch, *uname)
    assert systems.this_system() == NAMES[uname]


def test_every_system_has_one_name():
    assert set(NAMES.values()) == set(systems.SYSTEMS)
    assert all(name == system.name for name, system in systems.SYSTEMS.items())


def test_a_system_that_is_not_in_the_table(monkeypatch):
    pretend(monkeypatch, "OpenBSD", "amd64")
    assert systems.this_system() == "openbsd-amd64"
    assert systems.kernel_file("openbsd-amd64") == "kernels-openbsd-amd64.so"


def test_file_names():
    assert systems.kernel_file("linux-aarch64") == "kernels-linux-aarch64.so"
    assert systems.kernel_file("macos-arm64") == "kernels-macos-arm64.dylib"
    assert systems.kernel_file("windows-arm64") == "kernels-windows-arm64.dll"
    assert systems.executable_name("run", "windows-x86_64") == "run.exe"
    assert systems.executable_name("run", "linux-x86_64") == "run"


def test_packing_knows_no_other_names():
    assert set(interpreters.LAYOUTS) <= set(systems.SYSTEMS)
    pins = json.loads(interpreters.PINS.read_text())
    for project, files in pins.items():
        assert set(files) - {"any"} <= set(interpreters.LAYOUTS), project


def test_release_matrix():
    command = [sys.executable, "-m", "run.packing.release"]
    done = subprocess.run(command, cwd=ROOT, env=CLEAN, capture_output=True, check=True)
    assert json.loads(done.stdout) == release.matrix()
    jobs = {job["system"]: job for job in release.matrix()["include"]}
    assert jobs["windows-x86_64"]["file"] == "run.exe"
    assert jobs["linux-aarch64"] == {
        "system": "linux-aarch64",
        "runner": "ubuntu-22.04-arm",
        "make": "portable",
        "file": "run",
    }
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{job['make']}:" in makefile for job in jobs.values())
