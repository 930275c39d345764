"""Remove what killed runs left behind, where the program is PyInstaller's own bootloader.

That unpacks into a directory _MEI<process><random> and deletes it at the end, unless it is killed.
Packing makes this a run-time hook of such programs: it runs before run.py.
"""

import os
import shutil
import sys
import time
from pathlib import Path

AGE = 10  # seconds; a younger directory may be in the middle of its extraction


def sweep(own):
    """Remove directories beside `own` that have its contents and whose process is gone."""
    names = sorted(os.listdir(own))
    for place in Path(own).parent.glob("_MEI*"):
        try:
            if str(place) == own or time.time() - place.stat().st_mtime < AGE:
                continue
            if sorted(os.listdir(place)) != names or is_running(place.name):
                continue
            aside = place.with_name(f"{place.name}.old")
            place.rename(aside)  # Windows refuses this while a program uses it
            shutil.rmtree(aside, ignore_errors=True)
        except OSError:
            pass  # somebody else's, or removed meanwhile


def is_running(name):
    """Tell whether the process that made _MEI<process, 8 hexadecimal digits><random> is there."""
    try:
        process = int(name[4:12], 16)
        if os.name != "posix":
            return False  # there the renaming is refused
        os.kill(process, 0)
    except (ProcessLookupError, ValueError):
        return False
    return True


if hasattr(sys, "_MEIPASS"):
    sweep(sys._MEIPASS)
