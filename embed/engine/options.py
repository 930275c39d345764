"""The options beyond run.c's: a conversation, reports, int8, a new executable."""

import argparse
import shlex
import sys

from run import ModelError, Sampler, __version__, extra, load_model, tell

HINT = "-h lists the options"
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


def add_to(parser):
    """Add the options and return those that an executable or zipapp has inside (args.txt).

    An option that is a task of its own sets args.task, a function of args.
    """
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("-j", "--threads", type=threads, default=0, help="threads (else: one per core)")
    add("-m", "--mode", choices=TASKS, default="generate", action=Mode, help="tell or talk")
    add("-y", "--system-prompt", default="", help="what a chat should know beforehand")
    add("--int8", action="store_true", help="round float weights to int8: less memory, faster")
    add("--info", **task(info), help="describe the model and what it needs")
    add("--ppl", metavar="FILE", action=Named, const=perplexity, help="perplexity of a text")
    add("--embed", metavar="MODEL", action=Named, const=embed, help="a copy of this with MODEL in")
    add("-o", "--output", metavar="FILE", help="the executable that --embed writes")
    add(
        "--assimilate",
        **task(assimilate),
        help="write this system's program out of a universal file",
    )
    add("--version", action="version", version=f"run {__version__}")
    inside = extra("carried").find_embedded().get("args.txt", b"")
    return shlex.split(bytes(inside).decode())


def threads(text):
    """A number of threads, for argparse."""
    if not text.isdecimal() or int(text) > 1024:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is not from 0 (all cores) to 1024")
    return int(text)


def task(function):
    """What makes an option of argparse stand for a task."""
    return {"dest": "task", "action": "store_const", "const": function}


class Named(argparse.Action):
    """Stores the option's value and makes its function the task."""

    def __call__(self, parser, args, value, option=None):
        setattr(args, self.dest, value)
        args.task = self.const


class Mode(argparse.Action):
    """Stores the mode and makes its function the task."""

    def __call__(self, parser, args, value, option=None):
        args.mode, args.task = value, TASKS[value]


def load(args):
    """The model, with the whole context if -n does not say less."""
    return load_model(args.model, context=max(0, args.steps or 0), **args.loading)


def chat(args):
    """Talk until the input ends."""
    model = load(args)
    extra("chat").talk(model, args.system_prompt, args.prompt, Sampler(**args.sampling))


def info(args):
    """Print what the model is."""
    print(extra("report").info(load(args)))


def perplexity(args):
    """Print how well the model knows a text."""
    print(extra("report").perplexity(load(args), args.ppl))


def embed(args):
    """Write an executable with another model inside."""
    if not args.output:
        raise ModelError("--embed needs -o FILE, the executable to write")
    print(extra("programs").embed(args.embed, args.tokenizer, args.output), file=sys.stderr)


def assimilate(args):
    """Write the program that a universal file starts on this system as a file of its own."""
    universal = extra("universal")
    try:
        print(universal.assimilate(args.output), file=sys.stderr)
    except universal.pack.PackError as error:
        raise ModelError(str(error)) from None


TASKS = {"generate": tell, "chat": chat}
