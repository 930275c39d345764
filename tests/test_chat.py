"""Chat: driven as a person does, through a pseudo-terminal, and its templates token by token."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

import models
import pytest
from cli import CLEAN, ROOT, VOCAB, assert_one_line_error, run_cli, write_files

EOS = 2
ID = VOCAB.id
REPLY = {ID("]"): ID("Y"), ID("Y"): ID("e"), ID("e"): ID("s"), ID("s"): ID("!"), ID("!"): EOS}


class Terminal:
    """run.py on a pseudo-terminal of its own, so that ^C and ^D are what they are for a person."""

    def __init__(self, *arguments):
        self.master, slave = pty.openpty()
        self.seen = b""
        self.child = subprocess.Popen(
            [sys.executable, ROOT / "run.py", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=CLEAN | {"TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        os.close(self.master)

    def read(self, seconds):
        """What comes within this time; b"" at the end."""
        if not select.select([self.master], [], [], seconds)[0]:
            return b""
        try:
            return os.read(self.master, 4096)
        except OSError:  # Linux says EIO when the other side is closed
            return b""

    def wait_for(self, text, count=1, seconds=20):
        """Read until the text has come that often."""
        end = time.monotonic() + seconds
        while self.seen.count(text.encode()) < count:
            assert time.monotonic() < end, f"no {text!r} in {self.seen!r}"
            self.seen += self.read(0.1)

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self, seconds=20):
        """Wait for the exit; the status."""
        end = time.monotonic() + seconds
        while self.child.poll() is None and time.monotonic() < end:
            self.seen += self.read(0.05)
        while piece := self.read(0.05):
            self.seen += piece
        assert b"Traceback" not in self.seen and b"KeyboardInterrupt" not in self.seen, self.seen
        assert self.child.poll() is not None, f"still running: {self.seen!r}"
        return self.child.returncode


@pytest.fixture
def yes(tmp_path):
    """A model that answers "Yes!" to whatever ends in Llama 2's [/INST]."""
    return write_files(tmp_path, models.scripted(REPLY))


def test_many_turns_and_end_of_file(yes):
    with Terminal(yes, "-m", "chat", "-t", "0", "-y", "Be brief.") as terminal:
        for turn in range(1, 4):
            time.sleep(0.3 if turn == 1 else 0)
            terminal.type("hello\n")
            terminal.wait_for("Yes!", turn)
        terminal.type("\x04")
        assert terminal.end() == 0


def test_ctrl_c_at_the_prompt(yes):
    with Terminal(yes, "-m", "chat", "-t", "0", "-i", "hello", "-y", "s") as terminal:
        terminal.wait_for("Yes!")
        time.sleep(0.2)
        terminal.type("\x03")
        assert terminal.end() in (0, 130)


def test_ctrl_c_in_the_middle_of_an_answer(tmp_path):
    """It ends, or it stops the answer and a second one ends; never a traceback."""
    follow = {ID("]"): ID("a"), ID("a"): ID("a")}
    path = write_files(tmp_path, models.scripted(follow, seq_len=50_000))
    with Terminal(path, "-m", "chat", "-t", "0", "-i", "hello", "-y", "s", "-n", "0") as terminal:
        terminal.wait_for("aaaaaaaaaa")
        terminal.type("\x03")
        time.sleep(0.5)
        if terminal.child.poll() is None:
            terminal.type("\x03")
        assert terminal.end() in (0, 130)


def test_the_first_turn_may_come_from_flags(yes):
    with Terminal(yes, "-m", "chat", "-t", "0", "-i", "hello", "-y", "Be brief.") as terminal:
        terminal.wait_for("Yes!")
        terminal.type("more\n")
        terminal.wait_for("Yes!", 2)
        terminal.type("\x04")
        assert terminal.end() == 0


def test_empty_lines_and_any_text(yes):
    with Terminal(yes, "-m", "chat", "-t", "0", "-i", "hello", "-y", "s") as terminal:
        terminal.wait_for("Yes!")
        terminal.type("\n")
        terminal.type("é 你 😀 \t </s> <s>\n")
        terminal.wait_for("Yes!", 2)
        terminal.type("\x04")
        assert terminal.end() == 0


def test_chat_through_a_pipe(yes):
    """Lines on stdin, no terminal: one answer each, then the end."""
    flags = ["-m", "chat", "-t", "0", "-y", "Be brief."]
    done = run_cli(yes, *flags, stdin=b"one\ntwo\nthree\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"Yes!") == 3
    assert b"Traceback" not in done.stderr


def test_chat_with_nothing_on_stdin(yes):
    done = run_cli(yes, "-m", "chat")
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    command = f"{sys.executable} {ROOT / 'run.py'} {yes} -m chat <&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=CLEAN, timeout=60)
    assert b"Traceback" not in done.stderr


def test_chat_reads_bytes_that_are_not_utf8(yes):
    done = run_cli(yes, "-m", "chat", "-t", "0", "-y", "s", stdin=b"a\xff\xfeb\n\x00\x1b[31m\n")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"Yes!") == 2
    assert b"\x1b[31m" not in done.stdout


def test_a_full_context_is_said_and_survived(tmp_path):
    """Twenty turns in a context of 64: it says so, and goes on, or stops with a clear line."""
    path = write_files(tmp_path, models.scripted(REPLY, seq_len=64))
    done = run_cli(path, "-m", "chat", "-t", "0", "-y", "", stdin=b"hello there\n" * 20)
    assert b"Traceback" not in done.stderr
    assert b"context" in (done.stderr + done.stdout).lower()
    assert done.stdout.count(b"Yes!") >= 2
    if done.returncode == 0:
        assert done.stdout.count(b"Yes!") == 20


def test_an_endless_answer_ends_with_the_context(tmp_path):
    follow = {ID("]"): ID("a"), ID("a"): ID("a")}
    path = write_files(tmp_path, models.scripted(follow, seq_len=64))
    done = run_cli(path, "-m", "chat", "-t", "0", "-y", "s", stdin=b"hello\nagain\n")
    assert b"Traceback" not in done.stderr
    assert b"aaaaaaaa" in done.stdout
    assert b"context" in (done.stderr + done.stdout).lower()


def test_a_message_longer_than_the_context(tmp_path):
    path = write_files(tmp_path, models.scripted(REPLY, seq_len=64))
    done = run_cli(path, "-m", "chat", "-t", "0", "-y", "s", stdin=b"x" * 1000 + b"\nhi\n")
    assert b"Traceback" not in done.stderr
    assert b"64" in done.stderr + done.stdout


def test_broken_pipe_in_a_chat(yes):
    command = f"yes hello | {sys.executable} {ROOT / 'run.py'} {yes} -m chat -y s -t 0 | head -c 50"
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=CLEAN, timeout=60)
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_sigint_ends_a_chat_through_a_pipe(yes):
    command = [
        sys.executable,
        ROOT / "run.py",
        yes,
        "-m",
        "chat",
        "-y",
        "s",
        "-i",
        "hello",
        "-t",
        "0",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN
    ) as child:
        seen = b""
        while b"Yes!" not in seen:
            seen += os.read(child.stdout.fileno(), 100)
        child.send_signal(signal.SIGINT)
        stderr = child.communicate(timeout=20)[1]
    assert child.returncode in (0, 130, -signal.SIGINT)
    assert b"Traceback" not in stderr


def test_chat_needs_a_tokenizer(tmp_path):
    path = write_files(tmp_path, models.scripted(REPLY), vocab=None)
    assert_one_line_error(run_cli(path, "-m", "chat", stdin=b"hi\n", cwd=tmp_path), "tokenizer")
