"""What must be done before NumPy loads. Nothing here may import it, or names of run.py."""

import argparse
import contextlib
import os


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
