"""Downloads pinned by hash: wheels through pip, Debian packages through apt, kept in a cache.

    path = fetch(PyPI("numpy", "numpy-1.26.4-cp311-cp311-win_amd64.whl", "cd25bc..."))

A file is in the cache only under its right SHA-256: it is written aside, checked and renamed. An
interrupted download from PyPI goes on where it stopped. With a warm cache nothing touches the
network. Nothing that is downloaded is run.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20


class FetchError(Exception):
    """A file cannot be had, or is not the pinned one; the message says which and what to do."""


@dataclass(frozen=True)
class PyPI:
    """One file of a project on the package index that pip is set up for."""

    project: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Debian:
    """One binary package of one architecture, from the sources that apt is set up for."""

    package: str
    version: str
    arch: str
    sha256: str

    @property
    def file(self):
        return f"{self.package}_{self.version.replace(':', '%3a')}_{self.arch}.deb"


def cache_dir():
    """-> the directory of downloads, made if need be: $XDG_CACHE_HOME/run-build."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(home) / "run-build"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FetchError(f"no cache for downloads: {e}: set XDG_CACHE_HOME") from None
    return path


def file_sha256(path):
    """Path -> hexadecimal SHA-256 of its bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(item):
    """PyPI or Debian -> path of the verified file in the cache; FetchError if it cannot be had."""
    path = cache_dir() / item.file
    if path.exists():
        if file_sha256(path) == item.sha256:
            return path
        path.unlink()  # a damaged file: fetched again below
    print(f"fetching {item.file}", file=sys.stderr)
    try:
        part = {PyPI: fetch_pypi, Debian: fetch_debian}[type(item)](item)
    except OSError as e:  # requests' errors are OSErrors too
        raise FetchError(
            f"cannot fetch {item.file}: {one_line(e)}: try again, or put it into {path.parent}"
        ) from None
    if (found := file_sha256(part)) != item.sha256:
        part.unlink()
        raise FetchError(
            f"{item.file} has SHA-256 {found[:12]}..., expected {item.sha256[:12]}...: not used"
        )
    part.replace(path)
    return path


def one_line(text):
    return " ".join(str(text).split())[:200]


def pip_session():
    """-> (session, index URLs) as pip itself would use them: its index, proxy, certificates.

    They live in pip's internals because no public interface fetches a source archive without
    running its setup.py.
    """
    try:
        from pip._internal.commands.download import DownloadCommand

        command = DownloadCommand("download", "")
        options, _ = command.parse_args([])
        with command.main_context():
            session = command.get_default_session(options)
    except Exception as e:  # no pip, or one that changed its insides
        raise FetchError(
            f"downloads need pip in this Python ({one_line(e)}): python -m ensurepip --upgrade"
        ) from None
    return session, [options.index_url, *options.extra_index_urls]


def find_on_index(session, item, indexes):
    """-> the URL of item.file on the first index that lists it."""
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


def fetch_pypi(item):
    """PyPI -> path of the downloaded file, beside its place in the cache; resumes a part of it."""
    part = cache_dir() / (item.file + ".part")
    session, indexes = pip_session()
    url = find_on_index(session, item, indexes)
    done = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    reply = session.get(url, headers=headers, stream=True)
    if reply.status_code == 416:  # all there already, or junk: the hash will tell
        return part
    reply.raise_for_status()
    with open(part, "ab" if reply.status_code == 206 else "wb") as out:
        for chunk in reply.iter_content(CHUNK):
            out.write(chunk)
    return part


def apt_options(arch):
    """-> apt-get options that read another architecture's lists, leaving this system's alone."""
    state = cache_dir() / f"apt-{arch}"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    settings = {
        "APT::Architecture": arch,
        "APT::Architectures": arch,
        "APT::Sandbox::User": "root",  # the cache may be closed to the user _apt
        "Dir::State::lists": state / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": state,
    }
    return [f"-o{name}={value}" for name, value in settings.items()]


def fetch_debian(item):
    """Debian -> path of the downloaded package. apt checks the archive's signature on the way."""
    if not shutil.which("apt-get"):
        raise FetchError(
            f"{item.package} comes from Debian and there is no apt-get here: "
            "give an interpreter with --python ARCHIVE (python-build-standalone)"
        )
    apt = ["apt-get", "-qq", *apt_options(item.arch)]
    with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
        download = [*apt, "download", f"{item.package}={item.version}"]
        for command in (download, [*apt, "update"], download):
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
            if command is download and done.returncode == 0:
                break
        found = list(Path(scratch).glob("*.deb"))
        if not found:
            raise FetchError(
                f"apt has no {item.package} {item.version} for {item.arch}: "
                f"{one_line(done.stderr)}: newer pins: python embed/assemble.py --pin"
            )
        return found[0].replace(cache_dir() / (item.file + ".part"))
