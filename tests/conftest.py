"""Tests import run.py from the repository's root, and their own helpers from this directory."""

import os
import signal
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent)]

if os.name == "nt":  # it talks through a pseudo-terminal
    collect_ignore = ["engine/test_chat.py"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # `make test &` in a script: programs that
    signal.signal(signal.SIGINT, signal.default_int_handler)  # are interrupted would ignore it too


@pytest.fixture(params=["numpy", "c"])
def backend(request):
    """Each backend; the C one is skipped, with the reason, where its library is not built."""
    from support.cli import missing_kernel

    if request.param == "c" and missing_kernel():
        pytest.skip(f"no C kernel: {missing_kernel()}")
    return request.param
