"""Remove what killed runs left behind, where the program is PyInstaller's own bootloader.

That unpacks into a directory _MEI... and deletes it at the end, unless it is killed. Packing makes
this a run-time hook of such programs: it runs before run.py. A run that is killed before it gets
here leaves a directory without a mark, which nobody can tell from somebody else's: it stays.
"""

import contextlib
import sys
from pathlib import Path

from embed.engine import scratch

if hasattr(sys, "_MEIPASS"):
    own = Path(sys._MEIPASS)
    with contextlib.suppress(OSError):  # a full disk
        scratch.claim(own)
    scratch.sweep(own.parent, "_MEI[0-9A-Za-z]+")
