"""A conversation with a model: turns that stay in the KV cache, a context that fills."""

import codecs
import itertools
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from run import Sampler, Transformer, printable

from .templates import find_template

LONGEST_LINE = 2**20  # characters of what is said at once


@dataclass
class Turn:
    """What the user said, the tokens of the reply, and those between it and the next turn."""

    user: str
    reply: list[int] = field(default_factory=list)
    closing: list[int] = field(default_factory=list)


class Chat:
    """The turns of a conversation. When the context is full, the oldest turns fall out.

    notice: a function that is told what falls out.
    """

    def __init__(
        self,
        model: Transformer,
        sampler: Sampler,
        system: str = "",
        notice: Callable[[str], None] = print,
    ):
        self.model = model
        self.sampler = sampler
        self.system = system
        self.notice = notice
        self.tokenizer = model.tokenizer
        self.template = find_template(model.file.template)
        self.stops = set(self.tokenizer.stops)
        if self.template.stop in self.tokenizer.special:
            self.stops.add(self.tokenizer.special[self.template.stop])
        self.cache = model.new_cache()
        self.length = 0  # tokens in the cache
        self.turns: list[Turn] = []
        self.pending: list[int] = []  # tokens after the last reply, which are not in the cache yet

    def render(self, user: str, first: bool) -> list[int]:
        """Return the tokens of a turn up to the reply.

        Special tokens of the template become their ids; in what the user says they stay text.
        """
        template = self.template
        system = template.system if first and self.system else ""
        text = template.turn.replace("{system}", system)
        values = {"{user}": user, "{prompt}": self.system}
        special = {k: v for k, v in self.tokenizer.special.items() if k and k not in values}
        known = "|".join(map(re.escape, [*values, *special]))
        tokens = [self.tokenizer.bos] if template.bos or first else []
        for are_special, parts in itertools.groupby(
            re.split(f"({known})", text), special.__contains__
        ):
            if are_special:
                tokens += [special[part] for part in parts]
                continue
            plain = "".join(values.get(part, part) for part in parts)
            if plain:
                prefix = template.bos or (first and len(tokens) < 2)
                tokens += self.tokenizer.encode(plain, bos=False, prefix=prefix)
        return tokens

    def closing(self, stop: int) -> list[int]:
        """Return the tokens between a reply, which stop ended, and the next turn."""
        if not self.template.after:
            return [stop]
        return [stop, *self.tokenizer.encode(self.template.after, bos=False, prefix=False)]

    def reply(self, user: str) -> Iterator[str]:
        """Yield the text of the reply to what the user says."""
        turn = Turn(user)
        self.turns.append(turn)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        prev = None
        logits = self.read(self.pending + self.render(user, first=len(self.turns) == 1))
        while logits is not None:
            token = self.sampler.sample(logits)
            if token in self.stops:
                turn.closing = self.closing(token)
                break
            piece = self.tokenizer.decode(prev, token)
            if not turn.reply:
                piece = piece.lstrip(b" ")
            yield printable(decoder.decode(piece))
            turn.reply.append(token)
            prev = token
            logits = self.read([token])
        self.pending = turn.closing
        yield decoder.decode(b"", final=True)

    def read(self, tokens: list[int]) -> np.ndarray | None:
        """Forward tokens after what the cache holds, and return the logits.

        When they do not fit, the oldest turns are forgotten. None when this turn alone fills the
        context.
        """
        if self.length + len(tokens) > self.model.context:
            kept = self.make_room()
            if kept is None:
                return None
            tokens = kept
        logits = self.model.forward(tokens, self.length, cache=self.cache)
        self.length += len(tokens)
        return logits

    def make_room(self) -> list[int] | None:
        """Forget turns until a quarter of the context is free, and return the tokens of the rest.

        They are to be read anew. The last turn may take more; None when it does not fit at all.
        """
        context = self.model.context
        dropped = 0
        tokens = self.history()
        while len(tokens) > context * 3 // 4 and len(self.turns) > 1:
            del self.turns[0]
            dropped += 1
            tokens = self.history()
        if len(tokens) > context:
            self.overflow(len(tokens))
            return None
        self.length = 0
        self.notice(f"[the context of {context} tokens is full: {dropped} old turns forgotten]")
        return tokens

    def history(self) -> list[int]:
        """Return the tokens of all turns that are kept, rendered anew."""
        tokens = []
        for i, turn in enumerate(self.turns):
            tokens += self.render(turn.user, first=i == 0) + turn.reply + turn.closing
        return tokens

    def overflow(self, length: int) -> None:
        """Forget a turn that fills the context by itself, and say so."""
        said = "reply is cut" if self.turns[-1].reply else "message is not read: shorten it"
        context = self.model.context
        self.notice(f"[{length} tokens do not fit a context of {context}: this {said}]")
        self.turns = []
        self.length = 0


def say_on_stderr(text: str) -> None:
    """Print a notice where it is no part of the conversation."""
    print(text, file=sys.stderr, flush=True)


def ask() -> str | None:
    """Return the next line of the user, None when there are no more."""
    print("User: ", end="", flush=True)
    line = sys.stdin.readline(LONGEST_LINE) if sys.stdin else ""
    if len(line) < LONGEST_LINE or line.endswith("\n"):
        return line.strip() if line else None
    while line and not line.endswith("\n"):
        line = sys.stdin.readline(LONGEST_LINE)
    say_on_stderr(f"[a line of more than {LONGEST_LINE:,} characters is not read: shorten it]")
    return ""


def talk(model: Transformer, system: str, first: str, sampler: Sampler) -> None:
    """Read what the user says line by line, from a terminal or a pipe, and print the replies."""
    chat = Chat(model, sampler, system, say_on_stderr)
    own = model.file.template
    if own and chat.template.marker not in own:
        chat.notice("[the model's chat template is not known: Llama 2's is used]")
    user = first or ask()
    while user is not None:
        if user:
            print("Assistant: ", end="", flush=True)
            for text in chat.reply(user):
                print(text, end="", flush=True)
            print(flush=True)
        user = ask()
    print(flush=True)
