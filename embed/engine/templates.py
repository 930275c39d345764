"""How models were taught to chat: a table, a row for each template.

A GGUF carries its template as a Jinja program. It is not run: what is peculiar to each one tells
which row it is.
"""

from typing import NamedTuple


class Template(NamedTuple):
    """How a turn looks; {system}, {prompt} and {user} are filled in."""

    marker: str  # what tells this template in a model's own one
    turn: str  # up to where the reply begins
    system: str  # what {system} is in the first turn, with the system prompt in it
    stop: str = ""  # the special token that ends a reply, beside EOS
    after: str = ""  # what follows it
    bos: bool = False  # whether every turn begins with BOS, not the first alone


CHATML = Template(
    marker="<|im_start|>",
    turn="{system}<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n",
    system="<|im_start|>system\n{prompt}<|im_end|>\n",
    stop="<|im_end|>",
    after="\n",
)
ZEPHYR = Template(  # TinyLlama's
    marker="<|user|>",
    turn="{system}<|user|>\n{user}</s>\n<|assistant|>\n",
    system="<|system|>\n{prompt}</s>\n",
    after="\n",
)
ALPACA = Template(
    marker="### Instruction",
    turn="{system}### Instruction:\n{user}\n\n### Response:\n",
    system="{prompt}\n\n",
    after="\n\n",
)
LLAMA2 = Template(
    marker="[INST]",
    turn="[INST] {system}{user} [/INST]",
    system="<<SYS>>\n{prompt}\n<</SYS>>\n\n",
    bos=True,
)
TEMPLATES = {"chatml": CHATML, "zephyr": ZEPHYR, "alpaca": ALPACA, "llama2": LLAMA2}


def find_template(text: str) -> Template:
    """Return the template whose marker is in a model's own one; Llama 2's where none is."""
    for template in TEMPLATES.values():
        if template.marker in text:
            return template
    return LLAMA2
