"""The fixtures of the packed files: built once, used by every test that can."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from packed import STORY, build_executable, start, universal_file


@pytest.fixture(scope="session")
def executable(tmp_path_factory):
    return build_executable(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="session")
def story(executable):
    done = start(executable, *STORY)
    assert done.returncode == 0 and len(done.stdout) > 20, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def com(executable, tmp_path_factory):
    """A universal file with a program for this system only."""
    return universal_file(tmp_path_factory.mktemp("com") / "run.com", executable)
