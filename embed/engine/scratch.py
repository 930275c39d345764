"""Temporary directories, of which those that killed processes left are found and removed.

    with scratch.directory("run-build-") as place:    # a Path; gone afterwards
        ...

A directory that may be removed says so itself: it holds a file MARK with TEXT in it, which its
process keeps locked. The mark appears locked, and a lock ends with its process, in whatever
container that was. So what is at work, somebody else's, or of unknown origin is never touched.
"""

import contextlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a file that a process has open cannot be removed
    fcntl = None  # type: ignore[assignment]

MARK = ".made-by-run"
TEXT = b"Its directory is removed when the process that made it is gone.\n"
OWN_NAME = "[A-Za-z0-9_]{6,8}"  # what mkdtemp puts behind a prefix
held: list[int] = []  # the open marks of this process


@contextlib.contextmanager
def directory(prefix: str) -> Iterator[Path]:
    """Give a new temporary directory; those that killed processes left go first."""
    place, mark = create(prefix)
    try:
        yield place
    finally:
        remove(place, mark)


def create(prefix: str) -> tuple[Path, int]:
    """Make a directory: its path, and the descriptor of its mark, both of which remove() takes."""
    sweep(Path(tempfile.gettempdir()), re.escape(prefix) + OWN_NAME)
    place = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        return place, claim(place)
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        raise


def remove(place: Path, mark: int) -> None:
    """Remove a directory of this process with all that is in it."""
    held.remove(mark)
    if os.name != "posix":
        os.close(mark)
    clear(place)
    if os.name == "posix":
        os.close(mark)


def claim(place: Path) -> int:
    """Mark a new directory as this process's own; return the mark's descriptor."""
    name = place / (f"{MARK}.new" if fcntl else MARK)
    mark = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.write(mark, TEXT)
    held.append(mark)
    if fcntl:
        with contextlib.suppress(OSError):  # no locks here: it will never be swept
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(name, place / MARK)
    return mark


def for_children() -> tuple[int, ...]:
    """Return subprocess's pass_fds: a child that goes on after this process keeps the lock."""
    return tuple(held) if fcntl else ()


# ------------------------------------------------------------------ what killed processes left


def sweep(folder: Path, pattern: str) -> None:
    """Remove the directories with such names whose marks say that their process is gone."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if re.fullmatch(pattern, name):
                with contextlib.suppress(OSError):  # not ours, or another process was faster
                    remove_if_left(folder / name)


def remove_if_left(place: Path) -> None:
    """Remove a directory if it is ours and nobody holds its mark. OSError if it is not."""
    if not is_own(os.lstat(place), stat.S_ISDIR):
        return
    follow = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    mark = os.open(place / MARK, os.O_RDWR | follow)
    try:
        if not is_own(os.fstat(mark), stat.S_ISREG) or os.read(mark, len(TEXT) + 1) != TEXT:
            return
        if fcntl:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its process lives
            clear(place)
            return
    finally:
        os.close(mark)
    os.unlink(place / MARK)  # Windows: refused while its process lives
    clear(place)


def is_own(info: os.stat_result, kind: Callable[[int], bool]) -> bool:
    """Whether this is of that kind, ours, and closed to others."""
    if not kind(info.st_mode):
        return False
    return os.name != "posix" or (info.st_uid == os.geteuid() and not info.st_mode & 0o077)


def clear(place: Path) -> None:
    """Remove a directory, its mark last: if this is killed, the next sweep goes on."""
    for entry in os.scandir(place):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif entry.name != MARK:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
    with contextlib.suppress(OSError):
        os.unlink(place / MARK)
        os.rmdir(place)
