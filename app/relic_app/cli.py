"""The `relic` command line: finds the subcommand, runs it, and turns a user's mistake into one line.

Nothing heavy is imported here: `relic --help` must answer at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from relic.failures import WorkFailedError
from relic_app.commands import COMMANDS, Command

FAILED = 1
USER_ERROR = 2
INTERRUPTED = 130
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


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
        The exit status: 0 done; 1 a check failed, or the machine, a file or the numbers gave way; 2 the user's mistake
        (both told in one line on stderr); 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = build_parser(arguments).parse_args(arguments)
    try:
        status: int = options.run(options)
    except (ValueError, OSError, WorkFailedError) as error:
        if os.environ.get("RELIC_DEBUG") == "1":
            raise
        print(f"relic: {_one_line(error)}", file=sys.stderr)
        return FAILED if isinstance(error, WorkFailedError) or _for_want_of_room(error) else USER_ERROR
    except KeyboardInterrupt:
        print("relic: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def _for_want_of_room(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = "" if error.filename is None else f": {error.filename}"
        return f"{error.strerror}{place}{': make room and run again' if _for_want_of_room(error) else ''}"
    return " ".join(str(error).split()) or type(error).__name__
