"""Progress display of a training: a live display on a terminal and in a notebook with ipywidgets; elsewhere, such as in
a log file, a line for each phase and evaluation, and periodic lines between evaluations.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from htc.errors import OutputError
from htc.progress import LINE_SECONDS, animated, clock, message_console
from htc.training.events import (
    Downloading,
    EvaluationDone,
    EvaluationStep,
    Event,
    Finished,
    Listener,
    Message,
    Phase,
    Planned,
    StepDone,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LOG = logging.getLogger("htc")
SMOOTHED = 20
"""Number of steps over which the displayed losses are averaged."""
LOSS_PARTS = ("class", "box", "mask")


class Display:
    """Listener that shows the events of a training; `now` is a clock in seconds."""

    def __init__(self, console: "Console", now: Callable[[], float] = time.monotonic) -> None:
        self.console, self.now = console, now
        self.start = self.printed = now()
        self.minutes: float | None = None
        self.phase = "starting"
        self.first_step: int | None = None
        self.first_step_start = self.start
        self.step: StepDone | None = None
        self.evaluating: EvaluationStep | None = None
        self.evaluated: EvaluationDone | None = None
        self.best: EvaluationDone | None = None
        self.recent: deque[Mapping[str, float]] = deque(maxlen=SMOOTHED)
        self.speeds: deque[tuple[float, int]] = deque(maxlen=SMOOTHED)
        """(time at the end, images) of the last steps; evaluations are left out of the times."""
        self.paused = 0.0
        self.pause_start: float | None = None
        self.waited_before = 0.0
        self.shown_step = 0

    def __call__(self, event: Event) -> None:
        """Process an event and print a line if one is due."""
        match event:
            case Phase(name):
                self.phase = name
                if not animated(self.console):
                    self._print(name)
            case Downloading():
                size = "" if event.total is None else f" of {event.total >> 20}"
                self.phase = f"downloading {event.name}: {event.done >> 20}{size} MiB"
                if self._due():
                    self._print(self.phase)
            case Message(line, _):
                self._print(line)
            case Planned():
                self.minutes = event.minutes
                self._print_plan(event)
            case StepDone():
                self._step(event)
            case EvaluationStep():
                if self.pause_start is None:
                    self.pause_start = self.now()
                self.evaluating = event
                if self._due():
                    self._print(f"evaluating: {event.done} of {event.images} images")
            case EvaluationDone():
                self._evaluation(event)
            case Finished():
                self._finished(event)

    def close(self) -> None:
        """Print the last step, if it has no line yet, when the training is over."""
        if self.step is not None and self.shown_step < self.step.step:
            self._print_step()

    def _step(self, event: StepDone) -> None:
        if self.first_step is None:
            self.first_step, self.first_step_start = event.step - 1, self.now()
            self.waited_before = event.waited
        self.step, self.evaluating = event, None
        self.recent.append(event.losses)
        self.speeds.append((self.now() - self.paused, event.images))
        if self._due():
            self._print_step()

    def _evaluation(self, event: EvaluationDone) -> None:
        self.evaluated, self.evaluating = event, None
        if self.pause_start is not None:
            self.paused += self.now() - self.pause_start
            self.pause_start = None
        if event.best:
            self.best = event
        if self.step is None:  # a run that was interrupted before this evaluation and is resumed
            self._print(f"evaluation after epoch {event.entry['epoch']}: {precisions(event.entry)}")
        self._print_step()
        if event.stops:
            self._print("early stopping: AP has not improved in the number of evaluations set by training.early_stop")

    def _finished(self, event: Finished) -> None:
        self.close()
        took = clock(self.now() - self.start)
        for line in (
            f"ended after {took}: {event.reason}",
            f"model: {event.model}    metrics, curves and images: {event.folder}",
            f"{event.next_step}: {event.command}",
        ):
            self._print(line)

    def _due(self) -> bool:
        """Return whether a periodic line is due; a live display prints none."""
        return not animated(self.console) and self.now() - self.printed >= LINE_SECONDS

    def _print_step(self) -> None:
        if self.step is not None:
            self.shown_step = self.step.step
            self._print(self.line())

    def _print(self, line: str) -> None:
        self.printed = self.now()
        self.console.print(line, soft_wrap=True, markup=False)

    def _print_plan(self, plan: Planned) -> None:
        """Print each choice with its rule: a table on a terminal, one line each elsewhere."""
        from rich.table import Table

        chosen = any("preset" in choice.fields for choice in plan.choices)
        how = "Chosen for this dataset (override with flags or --preset):" if chosen else "Derived settings:"
        classes = "1 class" if plan.classes == 1 else f"{plan.classes} classes"
        self._print(f"{plan.images} images, {plan.instances} instances, {classes}. {how}")
        rows = [
            (name, _text(value), "" if number else choice.rule)
            for choice in plan.choices
            for number, (name, value) in enumerate(choice.fields.items())
        ]
        if animated(self.console):
            grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
            grid.add_column(no_wrap=True)
            grid.add_column(overflow="fold")
            grid.add_column(overflow="fold", style="dim")
            for row in rows:
                grid.add_row(*row)
            self.console.print(grid)
            return
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for name, value, rule in rows:
            self._print(f"  {name:{widths[0]}}  {value:{widths[1]}}  {rule}".rstrip())

    def losses(self) -> dict[str, float]:
        """Return every loss term, averaged over the last steps."""
        return {
            name: sum(terms.get(name, 0.0) for terms in self.recent) / len(self.recent)
            for name in (self.recent[-1] if self.recent else ())
        }

    def seconds_left(self) -> float | None:
        """Estimate the remaining seconds from the pace so far (evaluations included), bounded by the time limit; None
        before the first step.
        """
        if self.step is None or self.first_step is None:
            return None
        steps = self.step.step - self.first_step
        if steps > 1:  # the first step is not timed: it also starts the workers and fills the caches
            pace = (self.now() - self.first_step_start) / (steps - 1)
        else:
            pace = self.now() - self.start
        left = pace * (self.step.steps - self.step.step)
        return left if self.minutes is None else max(0.0, min(left, 60 * self.minutes - (self.now() - self.start)))

    def images_per_second(self) -> float | None:
        """Return the images trained in a second over the last steps; None before the second step."""
        (begin, _), (end, _) = (self.speeds[0], self.speeds[-1]) if self.speeds else ((0.0, 0), (0.0, 0))
        images = sum(images for _, images in list(self.speeds)[1:])
        return images / (end - begin) if end > begin and images else None

    def waiting(self) -> float | None:
        """Return the share of the training's time that it waited for data, 0..1; None before the second step."""
        if self.step is None or len(self.speeds) < 2:
            return None
        spent = self.now() - self.first_step_start - self.paused
        return min(1.0, (self.step.waited - self.waited_before) / spent) if spent > 0 else None

    def line(self) -> str:
        """Return one line with epoch, step, losses, latest evaluation and times."""
        assert self.step is not None
        parts = [
            f"epoch {self.step.epoch}/{self.step.epochs}",
            f"step {self.step.step}/{self.step.steps}",
            f"loss {sum(self.losses().values()):.3f}",
        ]
        if self.evaluated is not None and self.evaluated.entry["epoch"] == self.step.epoch:
            entry = self.evaluated.entry
            if "losses" in entry:
                parts.append(f"validation loss {sum(entry['losses'].values()):.3f}")
            parts.append(precisions(entry) + (" (best so far)" if self.evaluated.best else ""))
        return ", ".join([*parts, *self._tail()])

    def _tail(self) -> list[str]:
        assert self.step is not None
        used, left = self.step.memory, self.seconds_left()
        speed, waiting = self.images_per_second(), self.waiting()
        return [
            f"lr {self.step.learning_rate:.2g}",
            *([] if speed is None else [f"{speed:.3g} images/s"]),
            *([] if waiting is None or speed is None else [f"{waiting:.0%} waiting for data"]),
            *([] if used is None else [f"memory {used:.1f} GiB"]),
            f"{clock(self.now() - self.start)} elapsed",
            *([] if left is None else [f"{clock(left)} left"]),
        ]

    def __rich__(self) -> "RenderableType":
        """Return the content of the live display."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        if self.step is None:
            return f"{self.phase} ... {clock(self.now() - self.start)}"
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self.step.steps, completed=self.step.step, width=30)
        doing = "training" if self.evaluating is None else f"evaluating {self.evaluating.done}/{self.evaluating.images}"
        head.add_row(
            f"epoch {self.step.epoch}/{self.step.epochs}", f"step {self.step.step}/{self.step.steps}", bar, doing
        )
        rows: list[RenderableType] = [head, "  ".join(self._tail())]
        if self.evaluated is not None and self.best is not None:
            best = self.best.entry
            rows.append(
                f"last evaluation (epoch {self.evaluated.entry['epoch']}): {precisions(self.evaluated.entry)}; best: "
                f"epoch {best['epoch']}, {precisions(best)}"
            )
        return Group("", *rows, self._terms())

    def _terms(self) -> "RenderableType":
        """Return a table of losses, a row for each part of the network: last steps, then last evaluation."""
        from rich.table import Table

        losses = self.losses()
        validation: Mapping[str, float] = {} if self.evaluated is None else self.evaluated.entry.get("losses", {})
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        grid.add_column(f"loss, mean of {len(self.recent)} steps")
        for title in (*LOSS_PARTS, "sum"):
            grid.add_column(title, justify="right")
        if validation:
            for title in ("validation:", *LOSS_PARTS[1:], "sum"):
                grid.add_column(
                    f"{title} {LOSS_PARTS[0]}" if title.endswith(":") else title, justify="right", style="dim"
                )
        for name in dict.fromkeys(term.split(".")[0] for term in losses):
            grid.add_row(name, *_row(name, losses), *(_row(name, validation) if validation else ()))
        total = ["", "", "", f"{sum(losses.values()):.3f}"]
        grid.add_row("all", *total, *(["", "", "", f"{sum(validation.values()):.3f}"] if validation else ()))
        return grid


def _row(name: str, losses: Mapping[str, float]) -> list[str]:
    """Format the loss terms of one row and their sum."""
    own = {term: value for term, value in losses.items() if term.split(".")[0] == name}
    return [f"{own[f'{name}.{part}']:.3f}" if f"{name}.{part}" in own else "" for part in LOSS_PARTS] + [
        f"{sum(own.values()):.3f}" if own else ""
    ]


def precisions(entry: Mapping[str, Any]) -> str:
    """Format mask and box AP of an evaluation, in percent."""
    kinds = {"segm": "mask AP", "bbox": "box AP"}
    return ", ".join(
        f"{label} {'-' if entry[kind]['AP'] < 0 else format(100 * entry[kind]['AP'], '.1f')}"
        for kind, label in kinds.items()
        if kind in entry
    )


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def log_event(event: Event) -> None:
    """Log an event to the logger "htc": phases at level DEBUG, messages and evaluations at INFO, warnings about the
    dataset at WARNING.
    """
    match event:
        case Phase(name):
            LOG.debug(name)
        case Message(line, warning):
            LOG.log(logging.WARNING if warning else logging.INFO, line)
        case Finished():
            LOG.info("%s; model: %s", event.reason, event.model)
        case EvaluationDone(entry):
            LOG.info("evaluation after epoch %d: %s", entry["epoch"], precisions(entry))


class LogFile:
    """Listener that writes the lines of a display without a terminal to a file, and passes the events on.

    The file is created at the first step, so that a call that is refused before leaves none.
    """

    def __init__(self, path: Path, then: Listener) -> None:
        self.path, self.then = path, then
        self._before: list[Event] = []
        self._display: Display | None = None

    def __call__(self, event: Event) -> None:
        """Write the lines of an event, if it has some, and pass it on."""
        if self._display is not None:
            self._display(event)
        elif isinstance(event, StepDone):
            self._open(event)
        elif not isinstance(event, Downloading):
            self._before.append(event)
        self.then(event)

    def close(self) -> None:
        """Write the last step, if it has no line yet, and close the file."""
        if self._display is not None:
            self._display.close()
            self._display.console.file.close()

    def _open(self, first: StepDone) -> None:
        from rich.console import Console

        try:
            stream = self.path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}. Set --out to another folder") from error
        self._display = Display(Console(file=stream, width=200, highlight=False, force_terminal=False))
        for event in (*self._before, first):
            self._display(event)
        self._before = []


@contextmanager
def displaying(progress: bool | Listener) -> Iterator[Listener]:
    """Yield the listener of a training: `True` displays progress, `False` logs messages, a function is the listener."""
    from rich.live import Live

    if not isinstance(progress, bool):
        yield progress
        return
    if not progress:
        yield log_event
        return
    console = message_console()
    display = Display(console)
    if not animated(console):
        yield display
        display.close()
        return
    with Live(console=console, transient=True, refresh_per_second=4, get_renderable=display.__rich__):
        yield display
        display.close()
