"""How far a long job is, on a terminal."""

import sys
import time
from collections.abc import Iterator, Sequence


def shown(items: Sequence, what: str) -> Iterator:
    """Yield the items; after a second, on a terminal, say on stderr how far it is."""
    start = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() > start + 1 and sys.stderr and sys.stderr.isatty():
            end = "\r\x1b[K" if done == len(items) else "\r"  # the last one clears the line
            print(f"{what}: {100 * done // len(items)}%", end=end, file=sys.stderr)
