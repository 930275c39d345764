"""How good are the stories?  `python embed/recipe/judge.py [FILE]` (make judge) prints a report.

It asks a model file, or with --grammar the stories of stories.py themselves, for what the eye of a
reader meets first: names that it never saw come back as they were written, sentences do not recur
from story to story, stories end, and new plots are no surprise (perplexity).
"""

import argparse
import difflib
import itertools
import math
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import run
from run.recipe import stories

SHAPES = """My name is {name}
{name} and Ben
In the year 3000, {name}
Write about a dragon called {name}.
Yesterday the astronaut {name}
Once upon a time, there was a girl named {name}
Tell me a story about {name}.
The bus was late, and {name}
"Where is {name}?" asked
{name} opened the old box""".split("\n")
WORD = r"[^\W\d_](?:[\w'’-]*\w)?"


# ------------------------------------------------------------------------------------- a name


def spelled_right(name, prompt, text):
    """Whether `name`, given in the prompt, comes back and never as something like it.

    A story that only says "I" or "the dragon" must say the name once at least; a first name alone
    is right.  Wrong is any word with a capital that is nearly a part of the name.
    """
    told = text[len(prompt) :]
    if re.match(r"\w", told):  # the name in the prompt has grown a tail: Zed becomes Zedo
        return False
    parts = [name, *re.split("[ -]", name)]
    names = [word.removesuffix("'s") for word in re.findall(WORD, told)]
    capitals = {word for word in names if word[:1] == word[:1].upper() and word not in COMMON}
    if not any(re.search(rf"(?<!\w){re.escape(part)}(?!\w)", told) for part in parts):
        return False
    wrong = [word for word in capitals if word not in parts and any(alike(word, p) for p in parts)]
    return not wrong


def alike(word, name):
    """Whether a word looks like a name that went wrong: Pri or Pade for Priya.

    >>> alike("Pri", "Priya"), alike("Zedo", "Zed"), alike("Ben", "Priya")
    (True, True, False)
    """
    if " " in name or "-" in word:
        return any(alike(part, name) for part in word.split("-") if part) if "-" in word else False
    if len(name) > 2 and (word.startswith(name[:3]) or name.startswith(word)):
        return True
    return word[0] == name[0] and difflib.SequenceMatcher(None, word, name).ratio() > 0.65


def common_words():
    """Words that the plots write with a capital, at the start of a sentence or always."""
    words = Counter()
    for i in range(400):
        for word in re.findall(WORD, stories.story(random.Random(f"common/{i}"))):
            words[word] += 1
    lower = {w.capitalize() for w in words if w.islower()}
    written = (Path(stories.__file__).parent / "plots.txt").read_text(encoding="utf-8")
    lower |= {w.capitalize() for w in re.findall(r"\b[a-z']+", written)}
    return lower | {"I", "I'm", "I'll"}


COMMON = common_words()


def judge_names(tell):
    """100 unseen names in ten shapes: prints the share that is spelled right to the end."""
    right, by_shape, by_kind, samples = 0, Counter(), Counter(), []
    names = stories.unseen_names()
    kinds = Counter(map(kind_of, names))
    for (i, name), (j, shape) in itertools.product(enumerate(names), enumerate(SHAPES)):
        prompt = shape.format(name=name)
        text = tell(prompt, 1000 * i + j)
        if spelled_right(name, prompt, text):
            right += 1
            by_shape[shape] += 1
            by_kind[kind_of(name)] += 1
        else:
            samples.append(text)
    print(f"\nunseen names spelled right to the end: {right / len(names) / len(SHAPES):.1%} (95%)")
    for kind, count in kinds.items():
        print(f"  {by_kind[kind] / count / len(SHAPES):6.1%}  {kind} names")
    for shape in SHAPES:
        print(f"  {by_shape[shape] / len(names):6.1%}  {shape}")
    random.Random(1).shuffle(samples)
    for text in samples[:5]:
        print("  wrong: " + text[:300].replace("\n", " "))


def kind_of(name):
    return "two-part" if re.search("[ -]", name) else "plain" if name.isascii() else "accented"


# -------------------------------------------------------------------------------- the sentences


def sentences(text):
    """The sentences of a story, names masked: what is left is what was composed.

    >>> sentences('Tom ran. "Where is Tom?" asked Ann.')
    ['_ ran.', '"Where is _?" asked _.']
    """
    found = re.split(r"(?<=[.!?])\s+(?=[^\W_]|\")|(?<=[.!?]\")\s+(?=[^a-z])|\n", text)
    return [mask(sentence) for sentence in found if sentence and sentence.strip()]


def mask(sentence):
    def masked(match):
        word = match[0].removesuffix("'s")
        return match[0] if word in COMMON or word.islower() else "_"

    return re.sub(r"_(?: _)+", "_", re.sub(WORD, masked, sentence))


def judge_variety(texts):
    """How many sentences recur in other stories, and whether two stories are nearly one."""
    rows = [set(sentences(text)) for text in texts]
    seen = Counter(sentence for row in rows for sentence in row)
    total = sum(map(len, rows))
    recur = sum(count for count in seen.values() if count > 1)
    print(f"\nsentences that recur in {len(texts)} stories: {recur / total:.1%} (35% at most)")
    print("  most often: " + "; ".join(f"{c} {s}" for s, c in seen.most_common(8)))
    pairs = itertools.combinations(rows, 2)
    share = max(len(a & b) / min(len(a), len(b)) for a, b in pairs)
    print(f"the two stories most alike share {share:.1%} of the shorter one's sentences (50%)")


# ----------------------------------------------------------------------------------- the lengths


def judge_lengths(lengths, limits):
    lengths = sorted(lengths)
    at = [lengths[int(q * (len(lengths) - 1))] for q in (0, 0.05, 0.5, 0.95, 1)]
    print(f"\ntokens a story: least {at[0]}, 5% {at[1]}, half {at[2]}, 95% {at[3]}, most {at[4]}")
    for limit in limits:
        print(f"  ended within {limit}: {sum(n < limit for n in lengths) / len(lengths):.1%}")


def judge_perplexity(model, count=60):
    """Perplexity, a token, on stories of plots and of worlds that training kept out."""
    for held_out, name in ((True, "plots never told"), (False, "plots told otherwise")):
        loss, tokens = 0.0, 0
        for i in range(count):
            text = stories.story(random.Random(f"held-out/{i}"), held_out)
            ids = model.tokenizer.encode(text)[: model.context]
            logits = np.asarray(model.forward(ids[:-1], 0, last_only=False), np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            chosen = logits[np.arange(len(ids) - 1), ids[1:]]
            loss += float(np.sum(np.log(np.exp(logits).sum(axis=1)) - chosen))
            tokens += len(ids) - 1
        print(f"perplexity on {name}: {math.exp(loss / tokens):.3f} ({loss / tokens:.4f} nats)")


# ------------------------------------------------------------------------------------ the report


def judge_model(args):
    """Load a model file and put all questions to it."""
    model = run.load_model(args.model)
    context = model.config.seq_len

    def tell(prompt, seed):
        pieces = run.generate(model, prompt, context, temperature=args.temperature, seed=seed + 1)
        return "".join(pieces)

    print(f"{args.model or 'the model in embed/'}: {model.format}, {model.backend}")
    started = time.time()
    texts = [tell("", seed) for seed in range(args.stories)]
    lengths = [len(model.tokenizer.encode(text)) for text in texts]
    rate = sum(lengths) / (time.time() - started)
    judge_lengths(lengths, (256, context))
    print(f"  {rate:.0f} tokens/s")
    judge_variety(texts)
    if not args.quick:
        judge_names(tell)
    print()
    judge_perplexity(model)


def judge_grammar(args):
    """The same for the grammar: it cannot teach what it does not do itself."""
    texts = [stories.story(random.Random(f"judge/{i}")) for i in range(args.stories)]
    judge_variety(texts)
    words = sorted(len(text.split()) for text in texts)
    print(f"words a story: least {words[0]}, half {words[len(words) // 2]}, most {words[-1]}")
    p = stories.plots()
    ways = {(w.text, t.text) for w in p.of("want") for t in stories.turns_after(w)}
    kinds = ("want", "more", "turn", "open", "end")
    print(
        ", ".join(f"{len(p.of(kind))} of '{kind}'" for kind in kinds),
        f"{len(ways)} plots",
        sep="; ",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", help="a model file (the one in embed/)")
    parser.add_argument("--grammar", action="store_true", help="judge the grammar instead")
    parser.add_argument("--quick", action="store_true", help="without the thousand names")
    parser.add_argument("--stories", type=int, default=300, help="how many are compared (300)")
    parser.add_argument("-t", "--temperature", type=float, default=1.0, help="of sampling (1.0)")
    args = parser.parse_args()
    (judge_grammar if args.grammar else judge_model)(args)


if __name__ == "__main__":
    main()
