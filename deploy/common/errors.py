"""The errors a user can cause. The command line prints each as one line and leaves with its exit code."""

import errno

from tinyscene.deploy.common.text import printable

LONGEST_LINE = 2_000  # characters of an error; of a longer one, the end says what to do


class TinysceneError(Exception):
    """An error with one line that says what is wrong and what to do.

    What comes from a hostile file into the line is shown escaped where it is not printable, and cut where it is long.
    """

    exit_code = 2

    def __init__(self, line: str) -> None:
        shown = printable(line)
        if len(shown) > LONGEST_LINE:
            shown = f"{shown[: LONGEST_LINE // 2]} ... {shown[-LONGEST_LINE // 4 :]}"
        super().__init__(shown)


class InputError(TinysceneError, ValueError):
    """A file, folder, recipe or option that cannot be used as given (exit code 2)."""


class OverBudgetError(TinysceneError):
    """A model beyond its limits on bytes or MACs (exit code 3)."""

    exit_code = 3


def disk_error(error: OSError) -> InputError:
    """What the disk or the system refused, as one line."""
    where = f"{error.filename}: " if error.filename else ""
    remedy = "; free some room and run it again" if error.errno == errno.ENOSPC else ""
    return InputError(f"{where}{error.strerror or error}{remedy}")
