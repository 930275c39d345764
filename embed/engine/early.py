"""What frames a run: threads before NumPy loads, and Ctrl-C at any moment.

Nothing here may import NumPy, or names of run.py: they are not there yet.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED = 130  # the exit status, as shells have it


def limit_threads(argv: list[str]) -> None:
    """Do what -j says: OpenBLAS reads its number of threads once, while NumPy loads.

    The command line is read in full afterwards; here only the options whose values are free text
    must be known, since a prompt may hold a "-j 1" of its own.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("-j", "--threads", default="")
    parser.add_argument("-i", "--prompt")
    parser.add_argument("-y", "--system-prompt")
    with contextlib.suppress(argparse.ArgumentError):  # parse_args will say what is wrong
        threads = parser.parse_known_args(argv)[0].threads
        if threads.isdecimal():
            os.environ["OPENBLAS_NUM_THREADS"] = threads


def interrupt(signum: int, frame: object) -> NoReturn:
    """Take the first Ctrl-C: end the task by KeyboardInterrupt, which is raised only once."""
    signal.signal(signal.SIGINT, end_at_once)
    sys.unraisablehook = end_at_once  # raised in a callback, where nobody can catch it
    raise KeyboardInterrupt


def end_at_once(*_: object) -> NoReturn:
    """Take any later Ctrl-C: Python's own end would swallow an exception, and say so."""
    os._exit(INTERRUPTED)


def interruptible(main: Callable[[], int]) -> int:
    """Return main's status; Ctrl-C may end it at any moment, with status 130 and no traceback.

    A program that was started with Ctrl-C ignored (`run &` in a script) goes on ignoring it.
    """
    if sys.stdout is None and sys.stderr is not None:
        print("run: stdout is closed: there is nowhere to write a text to", file=sys.stderr)
        return 1
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return main()
    try:
        signal.signal(signal.SIGINT, interrupt)
        status = main()
        if signal.signal(signal.SIGINT, end_at_once) is end_at_once:
            return INTERRUPTED  # main went on, as something had swallowed the KeyboardInterrupt
        return status
    except BaseException:  # KeyboardInterrupt just outside of main, or what Python made of it:
        if signal.getsignal(signal.SIGINT) is end_at_once:  # a RuntimeError, in a class's making
            return INTERRUPTED
        raise


def program() -> NoReturn:
    """Run the command line as the installed command does."""
    import run  # loads NumPy

    sys.exit(interruptible(run.main))
