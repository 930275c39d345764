"""Draw the README's picture, tests/picture.svg: a terminal in which run.py tells a story.

    python tests/picture.py     # or: make picture

The text is what a real run with a fixed seed prints, so the same model gives the same picture.
"""

import html
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "tests" / "picture.svg"
OPTIONS = ["-s", "7", "-t", "0.8", "-n", "400"]
COLUMNS = 88
FONT = 14  # pixels
ADVANCE = 8.45  # pixels that a character of this size is wide, in the widest of the fonts
LINE = 20  # pixels from one line to the next
MARGIN = 20
BAR = 32  # height of the title bar
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
BUTTONS = "#ff5f57", "#febc2e", "#28c840"


def story() -> str:
    """Return what run.py prints."""
    command = [sys.executable, str(ROOT / "run.py"), *OPTIONS]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


def screen(text: str) -> list[str]:
    """Return the lines of the terminal, the command first."""
    lines = [f"$ python run.py {' '.join(OPTIONS)}"]
    for paragraph in text.splitlines():
        lines += textwrap.wrap(paragraph, COLUMNS) or [""]
    return [*lines, "$ "]


def draw(lines: list[str]) -> str:
    """Return the terminal as SVG."""
    width = round(2 * MARGIN + COLUMNS * ADVANCE)
    height = BAR + len(lines) * LINE + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="run.py tells a story">',
        f'<rect width="{width}" height="{height}" rx="8" fill="#1e1f29"/>',
    ]
    for i, colour in enumerate(BUTTONS):
        parts.append(f'<circle cx="{MARGIN + 18 * i}" cy="16" r="5.5" fill="{colour}"/>')
    parts.append(f'<g font-family="{FONTS}" font-size="{FONT}" xml:space="preserve">')
    for i, line in enumerate(lines):
        colour = "#8be9a8" if line.startswith("$ ") else "#e6e6ea"
        y = BAR + (i + 1) * LINE - 5
        text = html.escape(line, quote=False)
        parts.append(f'<text x="{MARGIN}" y="{y}" fill="{colour}">{text}</text>')
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


def main() -> None:
    picture = draw(screen(story()))
    PICTURE.write_text(picture, encoding="utf-8", newline="\n")
    print(f"{PICTURE.relative_to(ROOT)}: {len(picture):,} bytes")


if __name__ == "__main__":
    main()
