"""The tokenizer of the default model, and how it is made from the stories of the grammar.

Byte-pair encoding as llama2.c's tokenizer.bin has it.  Names are kept easy to copy: one capital,
then pieces of small letters, the same wherever the name stands, and bytes for rare letters.
"""

import random
import re
import struct
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import run
from run.recipe.stories import story

BOS = 1


def rng_for(split, number):
    """Training, vocabulary and held-out stories come from seeds that never meet."""
    return random.Random(f"{split}/{number}")


def units(text):
    """The stretches of a text that no token leaves, each with the space before it.

    Letters stay apart from marks, and every digit stands alone.

    >>> units(" It's Zoë, 31!")
    [' It', "'s", ' Zoë', ',', ' ', '3', '1', '!']
    """
    return re.findall(r" ?[^\W\d_]+|'[^\W\d_]+| ?[^\w\s]|\d|\s|_", text)


def train_tokenizer(vocab_size, n_stories):
    """Byte-pair encoding (Gage, 1994) as (pieces, scores), as tokenizer.bin has them.

    <unk>, BOS, EOS and the 256 bytes come first, then merges, the most frequent first, then
    letters.  Names take no part, and a capital merges with a space last of all: a name is one
    capital and pieces of small letters, spelled alike wherever it stands, which is easy to copy.
    """
    counts = Counter()
    for i in range(n_stories):
        counts.update(units(" " + story(rng_for("vocab", i))))
    seen = Counter(c for unit, n in counts.items() for c in unit * n)
    letters = sorted(c for c, n in seen.items() if (n > 9 and is_letter(c)) or " " <= c <= "~")
    rows = Counter()
    for unit, n in counts.items():
        if unit.islower() or not any(map(str.isalpha, unit)):
            rows[unit] += n
        elif counts[" " + unit.strip().lower()]:  # a word that begins a sentence
            rows[unit.strip()] += n
    capitals = [" " + c for c in letters if c.isupper() and c.isascii()]
    room = vocab_size - 259 - len(letters) - len(capitals)
    merges = learn_merges({unit: n for unit, n in rows.items() if len(unit) > 1}, room)
    starts = [unit for unit, n in rows.most_common() if unit[0].isupper() and len(unit) > 1]
    starts = [" " + unit for unit in starts if unit in merges[: room - 40]][:40]
    pieces = [*merges[: room - len(starts)], *starts, *capitals, *letters]
    special = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256))]
    scores = [0.0] * len(special) + [-float(i) for i in range(len(pieces))]
    return special + [piece.encode() for piece in pieces], scores


def is_letter(c):
    """Whether a character has a token of its own: the others are spelled in bytes."""
    return " " <= c <= "~" or ("\xc0" <= c < "\u0250" and c.isalpha())


def learn_merges(counts, room):
    """The `room` most frequent merges, each counted when those before it are done."""
    rows, merges = [(list(unit), n) for unit, n in counts.items()], {}
    pairs, places = Counter(), {}
    for number, (row, n) in enumerate(rows):
        count_pairs(row, n, number, pairs, places)
    while len(merges) < room and pairs:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges["".join(best)] = True
        for number in places[best]:
            row, n = rows[number]
            count_pairs(row, -n, number, pairs, places)
            merge_in(row, best)
            count_pairs(row, n, number, pairs, places)
        del pairs[best]
    return list(merges)


def count_pairs(row, n, number, pairs, places):
    """Add n to the count of every pair of a row, and note where it stands."""
    for pair in zip(row, row[1:], strict=False):
        pairs[pair] += n
        places.setdefault(pair, {})[number] = True


def merge_in(row, pair):
    """Merge a pair in a row, in place: ["a", "b", "c"], ("a", "b") -> ["ab", "c"]."""
    i = 0
    while i < len(row) - 1:
        if (row[i], row[i + 1]) == pair:
            row[i : i + 2] = ["".join(pair)]
        i += 1


def tokenizer_bytes(pieces, scores):
    """tokenizer.bin: the longest token, then (score, length, bytes) of each."""
    out = [struct.pack("<I", max(map(len, pieces)))]
    for piece, score in zip(pieces, scores, strict=True):
        out.append(struct.pack("<fI", score, len(piece)) + piece)
    return b"".join(out)


class Encoder:
    """The tokenizer that run.py will use, unit by unit: most units are met again and again."""

    def __init__(self, pieces, scores):
        self.file = tokenizer_bytes(pieces, scores)
        self.tokenizer, self.known = run.read_tokenizer(memoryview(self.file)), {}

    def __len__(self):
        return len(self.tokenizer.pieces)

    def encode(self, text):
        """The ids of BOS and a text, the same that run.py gives."""
        ids = [BOS]
        for unit in units(" " + text):
            if unit not in self.known:
                self.known[unit] = self.tokenizer.encode(unit, bos=False, prefix=False)
            ids += self.known[unit]
        return ids
