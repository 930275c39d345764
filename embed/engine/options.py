"""The options beyond run.c's: a conversation, reports, int8, a new executable."""

import argparse
import shlex
import sys
from collections.abc import Callable
from typing import Any

from run import ModelError, Sampler, Transformer, __version__, engine_module, load_model, tell

from . import carried
from .backends import MOST_THREADS

EXAMPLES = """examples:
  run.py                                    the embedded model tells a story
  run.py model.bin -i "Once upon a time"    a llama2.c checkpoint goes on from a prompt
  run.py model.gguf -t 0 -n 100 -v          a GGUF, the likeliest text, 100 tokens, times
  run.py model.bin -p 0.8 -s 7              from the likeliest 80%, the same story every time
  run.py model.bin -z tok.bin -i - < a.txt  another tokenizer, the prompt from stdin
  run.py model.gguf -m chat -y "Be brief."  a conversation
  run.py model.bin --info                   what the file holds and needs
  run.py model.bin --ppl text.txt           how well the model knows a text
  run.py model.bin --int8 -j 4              in int8, on four cores
  run.py model.bin --backend numpy          without the C kernel
  run --embed model.gguf -o myrun           a new executable with another model inside
"""


def add_to(parser: argparse.ArgumentParser) -> list[str]:
    """Add the options and return those that an executable or zipapp has inside (args.txt).

    An option that is a task of its own sets args.task, a function of args.
    """
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("-j", "--threads", type=threads, default=0, help="threads (else: one per core)")
    add("-m", "--mode", choices=TASKS, default="generate", action=Mode, help="tell or talk")
    add("-y", "--system-prompt", default="", help="what a chat should know beforehand")
    add("--int8", action="store_true", help="round float weights to int8: less memory, faster")
    add("--info", **task(info), help="describe the model and what it needs")
    add("--ppl", metavar="FILE", action=Named, const=perplexity, help="perplexity of a text")
    add("--embed", metavar="MODEL", action=Named, const=embed, help="a copy of this with MODEL in")
    add("-o", "--output", metavar="FILE", help="the executable that --embed writes")
    only = "write this system's program out of a universal file"
    add("--assimilate", **task(assimilate), help=only)
    add("--version", action="version", version=f"run {__version__}")
    return carried_options()


def carried_options() -> list[str]:
    """Return the options that this program carries. ModelError if they cannot be read."""
    text = bytes(carried.find_carried().get("args.txt", b""))
    try:
        return shlex.split(text.decode())
    except ValueError as error:  # a quote without its end, or not UTF-8
        raise ModelError(f"the options that this program carries: {error}: fix args.txt") from None


def threads(text: str) -> int:
    """Return a number of threads, for argparse."""
    if not text.isdecimal() or int(text) > MOST_THREADS:
        limits = f"from 0 (all cores) to {MOST_THREADS}"
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not {limits}")
    return int(text)


def task(function: Callable) -> dict[str, Any]:
    """Return what makes an option of argparse stand for a task."""
    return {"dest": "task", "action": "store_const", "const": function}


class Named(argparse.Action):
    """Stores the option's value and makes its function the task."""

    def __call__(self, parser: Any, args: Any, value: Any, option: Any = None) -> None:
        setattr(args, self.dest, value)
        args.task = self.const


class Mode(argparse.Action):
    """Stores the mode and makes its function the task."""

    def __call__(self, parser: Any, args: Any, value: Any, option: Any = None) -> None:
        args.mode = value
        args.task = TASKS[value]


def load(args: argparse.Namespace) -> Transformer:
    """Return the model, with the whole context if -n does not say less."""
    return load_model(args.model, context=max(0, args.steps or 0), **args.loading)


# Each task imports what it needs when it is asked for: a story needs none of it.
def chat(args: argparse.Namespace) -> None:
    """Talk until the input ends."""
    model = load(args)
    talk = engine_module("chat").talk
    talk(model, args.system_prompt, args.prompt, Sampler(**args.sampling))


def info(args: argparse.Namespace) -> None:
    """Print what the model is."""
    model = load(args)
    print(engine_module("report").info(model, args.model, args.tokenizer))


def perplexity(args: argparse.Namespace) -> None:
    """Print how well the model knows a text."""
    model = load(args)
    print(engine_module("report").perplexity(model, args.ppl))


def embed(args: argparse.Namespace) -> None:
    """Write an executable with another model inside."""
    if not args.output:
        raise ModelError("--embed needs -o FILE, the executable to write")
    said = engine_module("programs").embed(args.embed, args.tokenizer, args.output)
    print(said, file=sys.stderr)


def assimilate(args: argparse.Namespace) -> None:
    """Write the program that a universal file starts on this system as a file of its own."""
    print(engine_module("programs").assimilate(args.output), file=sys.stderr)


TASKS = {"generate": tell, "chat": chat}
