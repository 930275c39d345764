"""`pip install .`: the command run-llama, with the engine and the default model inside."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import run
from run.engine.systems import kernel_file, this_system
from support.cli import CLEAN, ROOT

pytestmark = pytest.mark.slow
STORY = ["-t", "0", "-n", "40"]
KERNEL = Path("embed", "kernels", kernel_file(this_system()))
BIN = "Scripts" if os.name == "nt" else "bin"


def launch(*command, cwd):
    """Run a program to its end; return its CompletedProcess, in text."""
    options = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 300}
    return subprocess.run(list(map(os.fspath, command)), cwd=cwd, env=CLEAN, check=False, **options)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone of this tree as it is now, with the kernel if that is built."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    listing = launch("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if listing.returncode:
        pytest.skip("this is no clone of the repository")
    place = tmp_path_factory.mktemp("clone")
    for name in [*listing.stdout.splitlines(), KERNEL]:
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    launch("git", "init", "-q", cwd=place)
    launch("git", "add", ".", cwd=place)
    return place


@pytest.fixture(scope="module")
def installed(clone, tmp_path_factory):
    """A fresh virtual environment into which the clone is installed.

    NumPy and setuptools are those of the tests' environment: no package index is asked.
    """
    pytest.importorskip("setuptools", reason="setuptools is not installed (make .venv/test)")
    place = tmp_path_factory.mktemp("venv")
    launch(sys.executable, "-m", "venv", "--without-pip", place, cwd=place)
    (site,) = [path for path in place.rglob("site-packages") if not path.is_symlink()][:1]
    (site / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", place, "install", "--quiet"]
    done = launch(*pip, "--no-deps", "--no-build-isolation", ".", cwd=clone)
    assert done.returncode == 0, done.stderr
    return place, site


def expected(*flags):
    done = launch(sys.executable, ROOT / "run.py", *flags, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_tells_a_story(installed, tmp_path):
    place, _ = installed
    done = launch(place / BIN / "run-llama", *STORY, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, expected(*STORY)), done.stderr


def test_python_m_run(installed, tmp_path):
    place, _ = installed
    done = launch(place / BIN / "python", "-m", "run", *STORY, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, expected(*STORY)), done.stderr


def test_library(installed, tmp_path):
    place, _ = installed
    code = "import run; print(''.join(run.generate(run.load_model(), steps=40, temperature=0)))"
    done = launch(place / BIN / "python", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, expected(*STORY)), done.stderr


def test_the_kernel_is_inside(installed, tmp_path):
    if not (ROOT / KERNEL).is_file():
        pytest.skip("the C kernel is not built (make kernel)")
    place, site = installed
    assert (site / "run_llama" / "kernels" / KERNEL.name).is_file()
    done = launch(place / BIN / "run-llama", "--info", "--backend", "c", cwd=tmp_path)
    assert "c (" in done.stdout, done.stderr


def test_the_exit_status(installed, tmp_path):
    place, _ = installed
    done = launch(place / BIN / "run-llama", "missing.bin", cwd=tmp_path)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1


def test_one_version(installed, tmp_path):
    place, _ = installed
    code = "from importlib.metadata import version; print(version('run-llama'))"
    done = launch(place / BIN / "python", "-c", code, cwd=tmp_path)
    assert done.stdout.strip() == run.__version__, done.stderr


def test_only_names_of_its_own(installed):
    _, site = installed
    names = {path.name for path in site.iterdir()} - {"tests.pth", "__pycache__"}
    assert {"run.py", "run_llama"} < names
    (info,) = names - {"run.py", "run_llama"}
    assert info.startswith("run_llama-") and info.endswith(".dist-info")
    installed_engine = {path.name for path in (site / "run_llama" / "engine").glob("*.py")}
    assert installed_engine == {path.name for path in (ROOT / "embed" / "engine").glob("*.py")}


@pytest.mark.usefixtures("installed")
def test_nothing_untracked_is_left(clone):
    assert launch("git", "status", "--porcelain", "-uall", cwd=clone).stdout.count("??") == 0
