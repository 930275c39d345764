"""What only a build needs: compilers, downloads, the parts of the files that build.py writes."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EMBED = ROOT / "embed"


class BuildError(Exception):
    """The build cannot go on; the message is one line: what, and what to do."""


def engine_files() -> list[Path]:
    """Return what every packed file carries: run.py, and embed/engine as it lies."""
    return [ROOT / "run.py", *sorted((EMBED / "engine").glob("*.py"))]


def module_name(path: Path) -> str:
    """Return the name that a packed file gives a module: embed.engine.kernel, embed.engine, run."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")
