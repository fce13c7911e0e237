"""The errors a user can cause. The command line prints each as one line and leaves with its exit code."""


class TinysceneError(Exception):
    """An error with one line that says what is wrong and what to do."""

    exit_code = 2


class InputError(TinysceneError, ValueError):
    """A file, folder, recipe or option that cannot be used as given (exit code 2)."""


class OverBudgetError(TinysceneError):
    """A model beyond its limits on bytes or MACs (exit code 3)."""

    exit_code = 3
