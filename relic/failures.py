"""Work that was rightly asked for and cannot be finished; the command line tells it in one line, with exit status 1."""

from __future__ import annotations


class WorkFailedError(RuntimeError):
    """The machine, a file or the numbers gave way; the message names what, and the way out."""


class DamagedFileError(WorkFailedError, ValueError):
    """A file is not whole, or does not hold what was written."""
