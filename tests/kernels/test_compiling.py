"""Compiling, without a warning; a wrong library is not used; sanitizers; other processors."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from kernel_harness import SETS

from run.packing import compilers as compiler

CHECKS = Path(__file__).resolve().parent / "check_kernels.c"


# -------------------------------------------------------------------- not used when not right
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("products.h", "FMA(b[o], a, sums[r][o])", "FMA(b[o], -a, sums[r][o])", "wrong numbers"),
        ("template.h", "/ scale;", "/ scale * 2.0f;", "wrong numbers"),
        ("block_products.h", "zero_of(f) * x_sum", "zero_of(f) * x_sum * 2", "wrong numbers"),
        ("kernel.h", "enum { ABI = ", "enum { ABI = 1000 + ", "version"),
    ],
)
def test_a_bad_kernel_is_not_used(tmp_path, monkeypatch, library, name, old, new, reason):
    from run import ModelError
    from run.engine import library as kernel

    for source in compiler.SOURCE.parent.glob("*.[ch]"):
        shutil.copy(source, tmp_path)
    source = (tmp_path / name).read_text()
    assert source.count(old) == 1
    (tmp_path / name).write_text(source.replace(old, new))
    monkeypatch.setattr(compiler, "SOURCE", tmp_path / compiler.SOURCE.name)
    path = compiler.compile_kernel(out_dir=tmp_path)
    monkeypatch.setattr(kernel, "library_path", lambda name: path)
    with pytest.raises(ModelError, match=reason):
        kernel.load.__wrapped__()


# ----------------------------------------------------------------------------------- compiling
@pytest.mark.slow
def test_compiling_twice_gives_the_same_bytes(library, tmp_path):
    assert compiler.compile_kernel(out_dir=tmp_path).read_bytes() == library.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("cc", ["gcc", "clang", "zig"])
def test_no_warnings(cc, tmp_path):
    command = (
        compiler.zig() and [*compiler.zig(), "cc"] if cc == "zig" else shutil.which(cc) and [cc]
    )
    if not command:
        pytest.skip(f"no {cc}")
    flags = [*compiler.FLAGS, *"-fPIC -Wall -Wextra -Werror -c".split()]
    sources = [str(compiler.SOURCE), "-o", str(tmp_path / "kernels.o")]
    done = subprocess.run([*command, *flags, *sources], check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def test_compile_errors_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "SOURCE", tmp_path / "broken.c")
    (tmp_path / "broken.c").write_text("int main(void) { return x; }\n")
    with pytest.raises(compiler.CompileError, match=r"failed: .*error.*x") as caught:
        compiler.compile_kernel(out_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.c"]


def test_compile_without_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "native_compiler", lambda: None)
    monkeypatch.setattr(compiler, "zig", lambda: None)
    with pytest.raises(compiler.CompileError, match="install cc, clang or gcc"):
        compiler.compile_kernel("linux-x86_64", tmp_path)
    with pytest.raises(compiler.CompileError, match="unknown target 'amiga'"):
        compiler.compile_kernel("amiga", tmp_path)


# ------------------------------------------------------------------ sanitizers and other machines
def run_checks(command, isa, expected=None):
    """Runs a compiled check_kernels.c; it says which instructions it used."""
    done = subprocess.run(
        command,
        check=False,
        env=os.environ | {"RUN_ISA": isa},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[0] == (expected or done.stdout.split()[0])
    assert done.stdout.endswith(" ok\n")


@pytest.mark.sanitizer
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers(sanitizer, tmp_path):
    cc, out = compiler.native_compiler(), tmp_path / "check"
    if not cc:
        pytest.skip("no C compiler found")
    flags = [f"-fsanitize={sanitizer}", *"-fno-sanitize-recover=all -g -O1 -pthread".split()]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    empty = [*cc, *flags, str(tmp_path / "empty.c"), "-o", str(out)]
    if subprocess.run(empty, check=False, capture_output=True).returncode:
        pytest.skip(f"{cc[0]} has no -fsanitize={sanitizer}")
    flags += ["-std=gnu11", "-fno-math-errno", str(CHECKS), "-o", str(out)]
    subprocess.run([*cc, *flags], check=True)
    for isa in SETS:  # one that the processor lacks stands for the best that it has
        run_checks([str(out)], isa)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("machine", "cpu", "isa"),
    [
        ("x86_64", "Nehalem", "portable"),
        ("x86_64", "Haswell", "avx2"),
        ("aarch64", "cortex-a53", "neon"),
        ("aarch64", "max", "dotprod"),
        ("riscv64", "rv64", "portable"),
    ],
)
def test_emulated_processors(machine, cpu, isa, tmp_path):
    """One program runs on the oldest processor of its kind, and is right there."""
    emulator = shutil.which(f"qemu-{machine}") or shutil.which(f"qemu-{machine}-static")
    if not emulator:
        pytest.skip(f"no qemu-{machine} (Debian: qemu-user)")
    if not compiler.zig():
        pytest.skip("no zig to cross-compile with (pip install ziglang)")
    out = tmp_path / "check"
    flags = ["cc", "-target", f"{machine}-linux-musl", *"-static -O1 -std=gnu11".split()]
    subprocess.run([*compiler.zig(), *flags, str(CHECKS), "-o", str(out)], check=True)
    run_checks([emulator, "-cpu", cpu, str(out)], "", isa)
