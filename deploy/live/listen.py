"""Listening: the sound card, or a recording in its place, decided on as it goes.

    tinyscene listen BUNDLE                                # the sound card, until Ctrl-C
    tinyscene listen BUNDLE --input "USB" --hop 0.25       # another card; four decisions a second
    tinyscene listen BUNDLE --source some.wav [--fast]     # a file in real time, or as fast as it can be decided on
    tinyscene listen BUNDLE --json | jq .scene             # a JSON line a decision, as without a terminal

The decisions are those of `SceneClassifier.stream` on the same samples. A card is heard at its own sample rate, so
that its sound is resampled as recordings are. Its samples wait in a queue of QUEUED seconds; what does not fit is
lost, as is what the driver drops, and both are counted and shown. Ctrl-C is how listening to a card ends, with exit
code 0, as `ping` does; a file that was not heard to its end leaves with 130, as whatever else was interrupted.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.live import Live

from tinyscene.deploy.common.terminal import console, messages
from tinyscene.deploy.common.text import json_text
from tinyscene.deploy.live.listen_view import picture_of
from tinyscene.deploy.live.listener import Listener
from tinyscene.deploy.live.sound import FileSource

FRAME = 0.1  # seconds between pictures


def listen(listener: Listener, as_json: bool) -> int:
    """Listen to the end of the sound, or until Ctrl-C. Returns the exit code.

    On a terminal it is shown; elsewhere, or where that is asked for, each decision is a line of JSON.
    """
    # SIGTERM, or it would leave a terminal without cursor; SIGINT, as whoever starts us may have it ignored
    former = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if as_json or not console.is_terminal or console.is_dumb_terminal:
            _write_lines(listener)
        else:
            _show(listener)
    except KeyboardInterrupt:
        messages.print(listener.summary, soft_wrap=True)
        return 130 if isinstance(listener.sound, FileSource) else 0
    except BrokenPipeError:  # whoever reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    messages.print(listener.summary, soft_wrap=True)
    return 0


def _decisions(listener: Listener) -> Iterator[list[dict[str, Any]]]:
    """The decisions that each block of the sound makes due, mostly none."""
    with contextlib.closing(listener.sound.blocks()) as blocks:
        for block in blocks:
            yield listener.hear(block)
    yield listener.finish()


def _write_lines(listener: Listener) -> None:
    for decisions in _decisions(listener):
        for decision in decisions:
            sys.stdout.write(json_text(decision) + "\n")
        sys.stdout.flush()


def _show(listener: Listener) -> None:
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        drawn = 0.0
        for _ in _decisions(listener):
            if time.monotonic() - drawn >= FRAME:
                drawn = time.monotonic()
                live.update(picture_of(listener, console), refresh=True)
        live.update(picture_of(listener, console), refresh=True)
