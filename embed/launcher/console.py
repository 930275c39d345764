"""On Windows: keep the window of a program that was started by a double click.

Explorer opens a console for the program alone and closes it with the program, before anybody has
read the story. Packing makes this a run-time hook of programs for Windows.
"""

import atexit
import ctypes
import sys


def is_alone():
    """Tell whether the console was opened for this program: no shell is attached to it.

    PyInstaller's bootloader is a second process of ours. Under wine a Unix terminal looks the same.
    """
    windows = ctypes.windll
    processes = windows.kernel32.GetConsoleProcessList((ctypes.c_uint32 * 4)(), 4)
    return 0 < processes <= 2 and not hasattr(windows.ntdll, "wine_get_version")


def wait():
    """Keep the window until somebody has read what is in it."""
    print("\nPress Enter to close this window.", end="", flush=True)
    sys.stdin.readline()


if (
    sys.platform == "win32"
    and all(s and s.isatty() for s in (sys.stdin, sys.stdout))
    and is_alone()
):
    atexit.register(wait)
