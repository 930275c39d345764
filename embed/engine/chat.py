"""A conversation with a model: templates, turns that stay in the KV cache, a context that fills."""

import codecs
import itertools
import re
import sys
from typing import NamedTuple

from run import printable


class Template(NamedTuple):
    """How a model was taught to chat; {system}, {prompt} and {user} are filled in.

    marker: what tells this template in a model's own (Jinja) one; turn: up to where the reply
    begins; system: what {system} is in the first turn; stop: the special token that ends a reply,
    beside EOS; after: what follows it; bos: whether every turn begins with BOS.
    """

    marker: str
    turn: str
    system: str
    stop: str = ""
    after: str = ""
    bos: bool = False


TEMPLATES = {
    "chatml": Template(
        "<|im_start|>",
        "{system}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\n{prompt}<|im_end|>\n",
        stop="<|im_end|>",
        after="\n",
    ),
    "zephyr": Template(
        "<|user|>",
        "{system}<|user|>\n{user}</s>\n<|assistant|>\n",
        "<|system|>\n{prompt}</s>\n",
        after="\n",
    ),
    "alpaca": Template(
        "### Instruction",
        "{system}### Instruction:\n{user}\n\n### Response:\n",
        "{prompt}\n\n",
        after="\n\n",
    ),
    "llama2": Template(
        "[INST]", "[INST] {system}{user} [/INST]", "<<SYS>>\n{prompt}\n<</SYS>>\n\n", bos=True
    ),
}


def find_template(text):
    """The template whose marker is in a model's own template, else (or without one) Llama 2's."""
    known = (template for template in TEMPLATES.values() if template.marker in text)
    return next(known, TEMPLATES["llama2"])


class Chat:
    """The turns of a conversation. When the context is full, the oldest turns fall out.

    turns: what the user said, the reply's tokens, the tokens after it; length: how many tokens the
    KV cache holds; pending: the tokens after the last reply, which are not yet in the cache;
    notice: is told what falls out.
    """

    def __init__(self, model, sampler, system="", notice=print):
        self.model, self.sampler, self.system, self.notice = model, sampler, system, notice
        self.tokenizer = model.tokenizer
        self.template = find_template(model.file.template)
        self.cache = model.new_cache()
        stop = self.tokenizer.special.get(self.template.stop)
        self.stops = self.tokenizer.stops | ({stop} - {None})
        self.turns, self.pending, self.length = [], [], 0

    def render(self, user, first):
        """The tokens of a turn up to the reply. Special tokens in what the user says stay text."""
        t, tokenizer = self.template, self.tokenizer
        text = t.turn.replace("{system}", t.system if first and self.system else "")
        values = {"{user}": user, "{prompt}": self.system}
        special = {k: v for k, v in tokenizer.special.items() if k and k not in values}
        parts = re.split(f"({'|'.join(map(re.escape, [*values, *special]))})", text)
        tokens = [tokenizer.bos] if t.bos or first else []
        for are_special, group in itertools.groupby(parts, special.__contains__):
            if are_special:
                tokens += [special[part] for part in group]
            elif plain := "".join(values.get(part, part) for part in group):
                prefix = t.bos or (first and len(tokens) < 2)
                tokens += tokenizer.encode(plain, bos=False, prefix=prefix)
        return tokens

    def closing(self, stop):
        """The tokens between a reply and the next turn."""
        after = self.template.after
        return [stop] + (self.tokenizer.encode(after, bos=False, prefix=False) if after else [])

    def reply(self, user):
        """Yield the text of the reply to what the user says."""
        self.turns.append((user, reply := [], closing := []))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        prev = None
        logits = self.read(self.pending + self.render(user, first=len(self.turns) == 1))
        while logits is not None:
            token = self.sampler.sample(logits)
            if token in self.stops:
                closing += self.closing(token)
                break
            piece = self.trim(self.tokenizer.decode(prev, token), reply)
            yield printable(decoder.decode(piece))
            reply.append(token)
            prev = token
            logits = self.read([token])
        self.pending = closing
        yield decoder.decode(b"", final=True)

    @staticmethod
    def trim(piece, reply):
        """The piece, without the space that opens a reply."""
        return piece if reply else piece.lstrip(b" ")

    def read(self, tokens):
        """Forward tokens after what the cache holds and return the logits.

        When they do not fit, the oldest turns are dropped until a quarter of the context is free,
        and what is left is read anew. None when this turn alone fills the context.
        """
        context = self.model.context
        if self.length + len(tokens) > context:
            dropped = 0
            while len(tokens := self.history()) > context * 3 // 4:
                if len(self.turns) == 1:
                    self.overflow(len(tokens))
                    return None
                self.turns.pop(0)
                dropped += 1
            self.length = 0
            self.notice(f"[the context of {context} tokens is full: {dropped} old turns forgotten]")
        logits = self.model.forward(tokens, self.length, cache=self.cache)
        self.length += len(tokens)
        return logits

    def history(self):
        """The tokens of all turns that are kept, rendered anew."""
        tokens = []
        for i, (user, reply, closing) in enumerate(self.turns):
            tokens += self.render(user, first=i == 0) + reply + closing
        return tokens

    def overflow(self, length):
        """Forget a turn that fills the context by itself, and say so."""
        said = "reply is cut" if self.turns[-1][1] else "message is not read: shorten it"
        context = self.model.context
        self.notice(f"[{length} tokens do not fit a context of {context}: this {said}]")
        self.turns, self.length = [], 0


def talk(model, system, first, sampler):
    """Read what the user says line by line, from a terminal or a pipe, and print the replies."""
    chat = Chat(model, sampler, system, lambda text: print(text, file=sys.stderr, flush=True))
    user, own = first, model.file.template
    if chat.template.marker not in own and own:
        chat.notice("[the model's chat template is not known: Llama 2's is used]")
    while True:
        if not user:
            print("User: ", end="", flush=True)
            line = sys.stdin.readline(2**20) if sys.stdin else ""
            if not line:
                break
            user = line.strip()
        if user:
            print("Assistant: ", end="", flush=True)
            for text in chat.reply(user):
                print(text, end="", flush=True)
            print(flush=True)
        user = ""
    print(flush=True)
