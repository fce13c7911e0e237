"""What `tinyscene listen` shows on a terminal: level, log-mel, scores, and what they cost.

The log-mel is that of the last clip, as the network hears it: low frequencies at the bottom, now at the right. A
character shows two bands, by the colours of its halves; a terminal without colours has shades, one without Unicode
marks.
"""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.console import Console, Group
from rich.style import Style
from rich.table import Table
from rich.text import Text

from tinyscene.deploy.frontend.audio import make_clip
from tinyscene.deploy.frontend.log_mel import FrontEnd, float_pcm
from tinyscene.deploy.live.listener import Listener

QUIETEST = -60.0  # dBFS, at the left end of the meter
LOUD = 8.0  # at least the top of the log-mel's colours lies so far above its floor
OTHER_LINES = 9  # of a picture, besides log-mel and scores
TALLEST = 16  # lines of log-mel
WIDEST = 100  # columns
COLOURS = np.array(  # of a log-mel from its floor to its top: dark to bright, whatever the eye
    [(0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191)], float
)
SHADES, MARKS = " ░▒▓█", " .:-=+*#%@"


def picture_of(listener: Listener, console: Console) -> Group:
    """The whole view, fitted to the terminal."""
    width = min(console.width - 1, WIDEST)
    scores = listener.last["scores"] if listener.last else dict.fromkeys(listener.classifier.labels, 0.0)
    decision = [_decision(listener)] if listener.classifier.rule else []
    room = max(2, console.height - OTHER_LINES - len(decision))
    shown = dict(sorted(scores.items(), key=lambda item: -item[1])[: max(1, room - 2)])
    height = min(TALLEST, max(2, room - len(shown)))
    ordered = [label for label in scores if label in shown]  # in a place of their own, where there is room
    return Group(
        _head(listener, width),
        _meter(listener, width, console),
        Text(),
        log_mel_picture(_last_clip(listener), listener.classifier.front_end, (height, width), console),
        Text(),
        *decision,
        _bars({label: scores[label] for label in ordered}, width, console),
        Text(),
        _foot(listener),
    )


def _head(listener: Listener, width: int) -> Text:
    seconds = listener.samples / listener.sound.sample_rate
    clock = f"{int(seconds // 60)}:{seconds % 60:04.1f}"
    title, sound = Text(listener.title, "bold"), Text(f"hears  {listener.sound.name}")
    title.truncate(width, overflow="ellipsis")
    sound.truncate(max(1, width - len(clock) - 2), overflow="ellipsis", pad=True)
    return Text.assemble(title, "\n", sound, f"  {clock}")


def _decision(listener: Listener) -> Text:
    """What the decision rule decided on, which need not be the highest score."""
    scene = listener.last["scene"] if listener.last else ""
    return Text.assemble("scene  ", (scene, "bold"), no_wrap=True, overflow="ellipsis")


def _meter(listener: Listener, width: int, console: Console) -> Text:
    """Level of the last block as a bar, and the peak of the last clip."""
    level, peak = (math.nan if level_db is None else level_db for level_db in (listener.level, listener.peak))
    share = 0.0 if math.isnan(level) else min(1.0, max(0.0, 1 - level / QUIETEST))
    figures = "silence" if math.isnan(level) else f"{level:6.1f} dBFS, peak {peak:6.1f}"
    full, empty = _blocks(console)
    size = max(8, width - 46)
    filled = round(share * size)
    text = Text.assemble("level  ", (full * filled, "green"), (empty * (size - filled), "dim"), f"  {figures}")
    return text.append("  CLIPPED", "bold red") if listener.clipped else text


def log_mel_picture(
    clip: NDArray[np.float32], front_end: FrontEnd, size: tuple[int, int], console: Console
) -> Table | Text:
    """The log-mel of a clip (samples,) at the front end's rate, in lines and columns of characters."""
    lines, columns = size
    mel = front_end.log_mel(clip[None])[0]  # (mel, frame)
    floor = math.log(front_end.log_offset)
    top = max(float(mel.max()), floor + LOUD)
    coloured = console.color_system is not None and not console.no_color and not console.options.ascii_only
    bands = _fitted((mel[::-1] - floor) / (top - floor), lines * (2 if coloured else 1), columns)
    if not coloured:
        marks = MARKS if console.options.ascii_only else SHADES
        rows = [[marks[min(len(marks) - 1, int(share * len(marks)))] for share in row] for row in bands]
        return Text("\n".join("".join(row) for row in rows))
    picture = Text()
    for upper, lower in zip(_colours(bands[::2]), _colours(bands[1::2]), strict=True):
        for above, below in zip(upper, lower, strict=True):
            picture.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        picture.append("\n")
    picture.right_crop(1)
    return picture


def _fitted(values: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """A log-mel (mel, frame) as (rows, columns): the mean of the bands, the nearest of the frames; 0 to 1."""
    edges = np.linspace(0, len(values), rows + 1).astype(int)
    bands = np.stack([values[low : max(low + 1, high)].mean(0) for low, high in pairwise(edges)])
    frames = np.linspace(0, values.shape[1] - 1, columns).round().astype(int)
    return np.clip(bands[:, frames], 0.0, 1.0)


def _colours(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Values in 0 to 1 as colours (..., 3)."""
    places = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(values, places, channel) for channel in COLOURS.T], -1).round().astype(int)


def _bars(scores: dict[str, float], width: int, console: Console) -> Table:
    """Scores as bars, the best marked."""
    best = max(scores, key=scores.__getitem__)
    names = min(max(map(len, scores)), width // 2)
    size = max(8, width - names - 10)
    full, empty = _blocks(console)
    table = Table.grid(padding=(0, 1))
    table.add_column(width=names, no_wrap=True, overflow="ellipsis")
    for label, score in scores.items():
        filled = round(score * size)
        style = "bold" if label == best else ""
        bar = Text.assemble((full * filled, "cyan" if label == best else "blue"), (empty * (size - filled), "dim"))
        table.add_row(Text(label, style), bar, Text(f"{score:6.1%}", style))
    return table


def _foot(listener: Listener) -> Text:
    lost, overflows = listener.sound.lost, listener.sound.overflows
    latency = f"{listener.last['latency_ms']:.1f} ms for this decision" if listener.last else "no decision yet"
    text = Text(f"{latency}; {listener.decisions} so far, every {listener.hop:g} s; Ctrl-C ends")
    if lost or overflows:
        text.append(f"\n{lost:,} SAMPLES LOST, {overflows} overflows of the driver", "bold red")
    return text


def _last_clip(listener: Listener) -> NDArray[np.float32]:
    """The last clip at the front end's rate, silence before it where there is less."""
    front_end, samples = listener.classifier.front_end, np.zeros(listener.clip_samples, np.float32)
    samples[len(samples) - len(listener.clip) :] = listener.clip
    clip, _ = make_clip(samples, listener.sound.sample_rate, front_end.sample_rate, front_end.clip_samples)
    return float_pcm(clip)


def _blocks(console: Console) -> tuple[str, str]:
    """What a bar is made of, filled and not."""
    return ("#", ".") if console.options.ascii_only else ("█", "░")
