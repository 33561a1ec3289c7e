"""`softnce`: one parser, a module per command, nothing heavy imported before a command runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from .. import __version__

# Command -> what it does, one line. The module of the same name has `add_arguments` and `run`.
COMMANDS = {
    "train": "train a code-search model, by default on the packages of this Python",
    "evaluate": "measure a model's ranking on (documentation, function) pairs",
    "search": "search a code base with a sentence",
    "mine": "mine (documentation, function) pairs from source code",
    "prepare": "prepare CodeSearchNet as the paper uses it, from a dump and URL lists",
    "build": "build the native ops now, for an image or a machine without a compiler later",
    "doctor": "say what is found, built, cached and chosen, and what mends what is missing",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for a failure told in a sentence, 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser(arguments).parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        print(f"softnce {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `softnce ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if os.environ.get("SOFTNCE_TRACEBACK"):
            raise
        print(f"softnce {args.command}: {_sentence(error)}", file=sys.stderr)
        return 1


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="softnce", description="Soft-InfoNCE for code search.")
    parser.add_argument("--version", action="version", version=f"softnce_ext {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        if name in arguments[:1]:  # only the command that runs needs its arguments
            module = importlib.import_module(f".{name}", __package__)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def _sentence(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # without its number, which tells nobody
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    return " ".join(text.split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
