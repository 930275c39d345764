"""Downloads from the package index that pip is set up for, pinned by hash, kept in a cache.

    path = fetch(PyPI("numpy", "numpy-1.26.4-cp311-cp311-win_amd64.whl", "cd25bc..."))

A file is in the cache only under its right SHA-256: it is written aside, checked and renamed. An
interrupted download goes on where it stopped. With a warm cache nothing touches the
network. Nothing that is downloaded is run.
"""

import contextlib
import errno
import hashlib
import logging
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import BuildError

CHUNK = 1 << 20


class FetchError(BuildError):
    """A file cannot be had, or is not the pinned one; the message says which and what to do."""


@dataclass(frozen=True)
class PyPI:
    """One file of a project on the index."""

    project: str
    file: str
    sha256: str


def cache_dir() -> Path:
    """Return the directory of downloads, made if need be: $XDG_CACHE_HOME/run-build."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(home) / "run-build"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
    except OSError as error:
        raise FetchError(f"no cache for downloads: {error}: set XDG_CACHE_HOME") from None
    if os.name == "posix" and (info.st_uid != os.geteuid() or info.st_mode & 0o022):
        raise FetchError(
            f"{path} is open to others, or theirs: chmod go-w it, or set XDG_CACHE_HOME"
        )
    return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process after the other do something about a path, where the system has locks."""
    try:
        import fcntl
    except ImportError:
        yield  # Windows: two builds at once might spoil each other's download; the hash tells
        return
    lock = path.with_name(f".{path.name}.lock")
    with open(own_file(lock), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def own_file(path: Path) -> int:
    """Open a plain file of ours to append to it, made if need be; links are not followed."""
    flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
    file = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
    info = os.fstat(file)
    if stat.S_ISREG(info.st_mode) and info.st_nlink == 1:
        return file
    os.close(file)
    raise OSError(errno.EINVAL, "it is not a plain file of its own", str(path))


def fetch(item: PyPI) -> Path:
    """Return the path of the verified file in the cache. Raises FetchError."""
    path = cache_dir() / item.file
    try:
        with one_at_a_time(path):
            return checked(item, path)
    except OSError as error:
        raise FetchError(f"cannot use {error.filename or path}: {error.strerror}") from None


def checked(item: PyPI, path: Path) -> Path:
    """Return the file as it is in the cache, downloaded if it is not there or damaged."""
    if path.exists():
        if file_sha256(path) == item.sha256:
            return path
        path.unlink()  # a damaged file: fetched again below
    print(f"fetching {item.file}", file=sys.stderr)
    try:
        part = download(item)
    except OSError as error:  # requests' errors are OSErrors too
        raise FetchError(
            f"cannot fetch {item.file}: {one_line(error)}: try again, or put it into {path.parent}"
        ) from None
    found = file_sha256(part)
    if found != item.sha256:
        part.unlink()
        raise FetchError(
            f"{item.file} has SHA-256 {found[:12]}..., expected {item.sha256[:12]}...: not used"
        )
    part.replace(path)
    return path


def one_line(text: object) -> str:
    return " ".join(str(text).split())[:200]


def pip_session():
    """Return a session and index URLs as pip itself would use them: index, proxy, certificates.

    They are in pip's internals because no public interface fetches a source archive without
    running its setup.py.
    """
    try:
        from pip._internal.commands.download import DownloadCommand

        logging.getLogger("pip._vendor.urllib3").setLevel(logging.ERROR)  # one line is enough
        command = DownloadCommand("download", "")
        options, _ = command.parse_args([])
        with command.main_context():
            session = command.get_default_session(options)
    except Exception as error:  # no pip, or one that changed its insides
        raise FetchError(
            f"downloads need pip in this Python ({one_line(error)}): python -m ensurepip --upgrade"
        ) from None
    return session, [options.index_url, *options.extra_index_urls]


def find_on_index(session, item: PyPI, indexes: list[str]) -> str:
    """Return the URL of item.file on the first index that lists it. Raises FetchError."""
    accept = {"Accept": "application/vnd.pypi.simple.v1+json"}
    for index in indexes:
        if not index.startswith("http"):
            continue
        reply = session.get(f"{index.rstrip('/')}/{item.project}/", headers=accept)
        if "json" not in reply.headers.get("content-type", ""):
            continue
        for entry in reply.json().get("files", ()):
            if entry["filename"] == item.file:
                return entry["url"]
    raise FetchError(f"the package index does not list {item.file}")


def download(item: PyPI) -> Path:
    """Return the path of the downloaded file, beside its place in the cache; resumes a part."""
    part = cache_dir() / (item.file + ".part")
    session, indexes = pip_session()
    url = find_on_index(session, item, indexes)
    headers = {"Accept-Encoding": "identity"}
    done = part.stat().st_size if part.exists() else 0
    if done:
        headers["Range"] = f"bytes={done}-"
    reply = session.get(url, headers=headers, stream=True)
    if reply.status_code == 416:  # all there already, or junk: the hash will tell
        return part
    reply.raise_for_status()
    with open(own_file(part), "ab") as out:
        if reply.status_code != 206:
            out.truncate(0)
        for chunk in reply.iter_content(CHUNK):
            out.write(chunk)
    return part
