"""Progress of long work: the types of callbacks, and their display.

`progress=True` shows a bar on a terminal, a widget in a notebook with ipywidgets, and periodic lines elsewhere, such as
in a log file; `False` shows nothing; a function is called instead. All output is on standard error.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from htc.ranks import here

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int], None]
"""Called with (done, total) after each item."""
NamedProgress = Callable[[int, int, str], None]
"""Called with (done, total, note) after each item; the note describes the current item."""
ProgressOption = bool | NamedProgress
"""The public option `progress`."""
LINE_SECONDS = 30.0
"""Minimum seconds between two lines if the output cannot be redrawn."""


def message_console() -> "Console":
    """Return a console on standard error (in a notebook, below the cell); only the first process prints."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, quiet=here().rank > 0)


def animated(console: "Console") -> bool:
    """Whether the console can redraw its output."""
    return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)


@contextmanager
def reporting(progress: ProgressOption, task: str) -> Iterator[NamedProgress]:
    """Yield the function to call with (done, total, note) while `task` runs."""
    if not isinstance(progress, bool):
        yield progress
        return
    console = message_console()
    if not progress:
        yield lambda _done, _total, _note="": None
    elif animated(console):
        with _bar(console, task) as update:
            yield update
    else:
        yield Lines(console, task)


class Lines:
    """Print periodic lines for work that takes longer than `LINE_SECONDS`; `now` is a clock in seconds."""

    def __init__(self, console: "Console", task: str, now: Callable[[], float] = time.monotonic) -> None:
        self.console, self.task, self.now = console, task, now
        self.begin = self.start = self.last = now()
        self.done = 0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Print a line if one is due, with an estimate of the remaining time; `done` may restart from 0, as for the
        next member of an ensemble.
        """
        if done < self.done:
            self.start = self.last
        self.done = done
        if self.now() - self.last < LINE_SECONDS or not done:
            return
        self.last = self.now()
        elapsed = self.last - self.begin
        left = f", {clock((self.last - self.start) / done * (total - done))} left" if total else ""
        share = f" of {total} ({100 * done // total} %)" if total else ""
        named = f" {note}" if note else ""
        self.console.print(
            f"{self.task}{named}: {done}{share}, {clock(elapsed)} elapsed{left}", soft_wrap=True, markup=False
        )


def clock(seconds: float) -> str:
    """Format seconds as 3:07, 1:02:03 or 2 d 3:04:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    short = f"{hours}:{minutes:02d}:{rest:02d}" if hours or days else f"{minutes}:{rest:02d}"
    return f"{days} d {short}" if days else short


@contextmanager
def _bar(console: "Console", task: str) -> Iterator[NamedProgress]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task(task, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(row, completed=done, total=total or None, note=note)

        yield update
