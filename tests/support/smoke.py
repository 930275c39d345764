"""Tries one built file, alone: python tests/support/smoke.py FILE

It runs in an empty directory, with next to no environment, and must say what `python run.py`
says for the same model. The release workflow calls this on every system.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FLAGS = ["-t", "0", "-n", "60"]
SAMPLED = ["-t", "0.8", "-s", "7", "-n", "60", "-i", "Tim said: Größe"]
KEPT = "PATH", "HOME", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "USERPROFILE", "LOCALAPPDATA"


def starter(file):
    """Return the command that starts a built file here."""
    if file.suffix == ".pyz":
        return [sys.executable, str(file)]
    if file.suffix == ".com" and os.name == "posix":
        return ["sh", str(file)]  # a universal file is started by a shell
    return [str(file)]


def output(command, cwd):
    """Return what a command prints, without the difference in line ends; fails loudly."""
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, timeout=300, check=False)
    if done.returncode:
        sys.exit(f"{command} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout.replace(b"\r\n", b"\n")


def main():
    file = Path(sys.argv[1]).resolve()
    source = [sys.executable, str(ROOT / "run.py"), str(ROOT / "embed" / "model.bin")]
    with tempfile.TemporaryDirectory() as empty:
        for flags in (FLAGS, SAMPLED):
            expected, found = output(source + flags, empty), output(starter(file) + flags, empty)
            if found != expected:
                sys.exit(f"{file.name} {flags}: {found!r}, expected {expected!r}")
        print(output([*starter(file), "--info"], empty).decode())
        copy = Path(empty) / ("copy" + file.suffix)
        model = str(ROOT / "embed" / "model.bin")
        output([*starter(file), "--embed", model, "-o", str(copy)], empty)
        if output(starter(copy) + FLAGS, empty) != output(source + FLAGS, empty):
            sys.exit(f"{file.name} --embed wrote a file that tells another story")
    print(f"{file.name}: good")


if __name__ == "__main__":
    main()
