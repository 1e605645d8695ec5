"""The `relic` command line: finds the subcommand, runs it, and turns a user's mistake into one line.

Nothing heavy is imported here: `relic --help` must answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from relic_app.commands import COMMANDS, Command

USER_ERROR = 2
INTERRUPTED = 130


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Build the parser for one call; only the subcommand that `argv` names is imported.

    Args:
        argv: the arguments after the program's name.
    """
    parser = argparse.ArgumentParser(
        prog="relic",
        description="RELIC: walk into a picture. An open interactive video world model with long memory.",
        epilog="`relic COMMAND --help` tells each command's options. RELIC_DEBUG=1 shows tracebacks.",
    )
    _add_commands(parser, COMMANDS, list(argv))
    return parser


def _add_commands(parser: argparse.ArgumentParser, commands: Sequence[Command], argv: list[str]) -> None:
    choices = parser.add_subparsers(metavar="COMMAND", required=True)
    chosen = argv[0] if argv else ""
    for command in commands:
        child = choices.add_parser(command.name, help=command.summary, description=command.summary)
        if command.children:
            _add_commands(child, command.children, argv[1:] if command.name == chosen else [])
        elif command.name == chosen:
            implementation = command.load()
            child.formatter_class = argparse.ArgumentDefaultsHelpFormatter
            implementation.add_arguments(child)
            child.set_defaults(run=implementation.run)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; the process's own when None.

    Returns:
        The exit status: 0 done, 1 a check failed, 2 the user's mistake (told in one line on stderr),
        130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = build_parser(arguments).parse_args(arguments)
    try:
        status: int = options.run(options)
    except (ValueError, OSError) as error:
        if os.environ.get("RELIC_DEBUG") == "1":
            raise
        print(f"relic: {_one_line(error)}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("relic: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
