"""Several things to do, some of which cannot be done: the others are done and shown, then these are named."""

import contextlib
from collections.abc import Iterator

import typer

from tinyscene.deploy.common.errors import InputError
from tinyscene.deploy.common.terminal import messages


class Failures:
    """Errors that are kept until what could be done has been shown."""

    def __init__(self) -> None:
        self._errors: list[InputError] = []

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the InputError that the block raises."""
        try:
            yield
        except InputError as error:
            if str(error) not in map(str, self._errors):  # what is tried twice fails twice
                self._errors.append(error)

    def name(self) -> None:
        """Name each error on a line of its own and leave with exit code 2, if there are any."""
        for error in self._errors:
            messages.print(f"tinyscene: {error}", soft_wrap=True)
        if self._errors:
            raise typer.Exit(InputError.exit_code)
