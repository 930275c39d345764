"""Byte-pair encoding of long texts: the same tokens as Tokenizer.merge of run.py, in less time.

Where no token holds a space behind something else, no merge crosses the beginning of a word: each
word is encoded alone, and once. What is left takes n log n steps.
"""

import heapq
import re
from typing import Any

from run import Tokenizer

WORDS = re.compile(" *[^ ]+| +")
CROSSES_WORDS = re.compile(rb"[^ ] ")
MOST_WORDS = 2**14  # that are remembered
SHORT = 2000  # characters that are encoded at once sooner than the vocabulary is looked through


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text, whose prefix is in it already."""
    if len(text) < SHORT or any(map(CROSSES_WORDS.search, tokenizer.ids)):
        return merge(tokenizer, tokenizer.characters(text))
    tokens: list[int] = []
    known: dict[str, list[int]] = {}
    for match in WORDS.finditer(text):
        word = match[0]
        if word not in known:
            if len(known) >= MOST_WORDS:
                known.clear()
            known[word] = merge(tokenizer, tokenizer.characters(word))
        tokens += known[word]
    return tokens


def merge(tokenizer: Tokenizer, tokens: list[int]) -> list[int]:
    """Return tokens with neighbours merged, best score first, leftmost of equals.

    The tokens are a linked list of positions, the pairs that can be merged a heap. A pair on the
    heap whose tokens were merged with others meanwhile is outdated and skipped.
    """
    ids, pieces, scores = tokenizer.ids, tokenizer.pieces, tokenizer.scores
    left_of = list(range(-1, len(tokens)))
    right_of = list(range(1, len(tokens) + 1))
    here: list[Any] = [*tokens, None]  # None: merged into its neighbour, or an end
    never = {*tokenizer.single, None}
    heap: list[tuple] = []

    def consider(i: int) -> None:
        """Push what the token at i and the next one make, if they make something."""
        left = here[i]
        right = here[right_of[i]]
        if left in never or right in never:
            return
        merged = ids.get(pieces[left] + pieces[right])
        if merged is not None:
            heapq.heappush(heap, (-scores[merged], i, left, right, merged))

    for i in range(len(tokens)):
        consider(i)
    while heap:
        _, i, left, right, merged = heapq.heappop(heap)
        j = right_of[i]
        if here[i] != left or here[j] != right:
            continue
        here[i] = merged
        here[j] = None
        right_of[i] = right_of[j]
        left_of[right_of[j]] = i
        consider(left_of[i])
        consider(i)
    return [token for token in here if token is not None]
