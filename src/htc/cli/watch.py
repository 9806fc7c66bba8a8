"""A training as it runs: on a terminal a live display, elsewhere a line for each evaluation or epoch; always on
stderr.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from htc.cli.output import messages

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from htc.training.record import EvaluationDone, EvaluationStep, Event, StepDone

SMOOTHED = 20
"""Steps over which the shown losses are averaged."""
LOSS_PARTS = ("class", "box", "mask")


class Watch:
    """What is known of a training, from its events; `now` (seconds) and `memory` (GiB or None) are read when
    something is shown.
    """

    def __init__(
        self,
        console: "Console",
        minutes: float | None,
        memory: Callable[[], float | None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.minutes, self.memory, self.now = console, minutes, memory, now
        self.start = now()
        self.first_step: int | None = None
        self.step: StepDone | None = None
        self.measuring: EvaluationStep | None = None
        self.measured: EvaluationDone | None = None
        self.best: EvaluationDone | None = None
        self.recent: deque[Mapping[str, float]] = deque(maxlen=SMOOTHED)
        self.told_epoch = 0

    def __call__(self, event: "Event") -> None:
        """Takes an event in, and writes a line where one is due."""
        from htc.training.record import EvaluationDone, EvaluationStep, StepDone

        if isinstance(event, StepDone):
            self._epoch_over(event.epoch)
            if self.first_step is None:
                self.first_step = event.step - 1
            self.step, self.measuring = event, None
            self.recent.append(event.losses)
        elif isinstance(event, EvaluationStep):
            self.measuring = event
        elif isinstance(event, EvaluationDone):
            self.measured, self.measuring = event, None
            if event.best:
                self.best = event
            self.told_epoch = event.entry["epoch"]
            self._print(self.line())
            if event.stops:
                self._print(
                    "the precision has not grown for as many evaluations as training.early_stop allows: the "
                    "training ends"
                )
        else:
            self._print(event.line)

    def close(self) -> None:
        """The training is over."""
        if self.step is not None:
            self._epoch_over(self.step.epoch + 1)

    def _epoch_over(self, running: int) -> None:
        """Without an evaluation an epoch has a line of its own."""
        if self.step is not None and self.told_epoch < self.step.epoch < running:
            self.told_epoch = self.step.epoch
            self._print(self.line())

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False)

    def losses(self) -> dict[str, float]:
        """Every term, averaged over the last steps."""
        return {
            name: sum(terms.get(name, 0.0) for terms in self.recent) / len(self.recent)
            for name in (self.recent[-1] if self.recent else ())
        }

    def seconds_left(self) -> float | None:
        """What is left at the pace so far, evaluations included, and no more than the time limit leaves; None before
        the first step.
        """
        if self.step is None or self.first_step is None:
            return None
        passed = self.now() - self.start
        pace = passed / (self.step.step - self.first_step)
        left = pace * (self.step.steps - self.step.step)
        return left if self.minutes is None else max(0.0, min(left, 60 * self.minutes - passed))

    def line(self) -> str:
        """One line about where the training stands."""
        assert self.step is not None
        parts = [
            f"epoch {self.step.epoch}/{self.step.epochs}",
            f"step {self.step.step}/{self.step.steps}",
            f"loss {sum(self.losses().values()):.3f}",
        ]
        if self.measured is not None and self.measured.entry["epoch"] == self.step.epoch:
            entry = self.measured.entry
            if "losses" in entry:
                parts.append(f"validation loss {sum(entry['losses'].values()):.3f}")
            parts.append(precisions(entry) + (" (best so far)" if self.measured.best else ""))
        return ", ".join([*parts, *self._tail()])

    def _tail(self) -> list[str]:
        assert self.step is not None
        used, left = self.memory(), self.seconds_left()
        memory = [] if used is None else [f"memory {used:.1f} GiB"]
        return [
            f"lr {self.step.learning_rate:.2g}",
            *memory,
            f"{clock(self.now() - self.start)} passed",
            *([] if left is None else [f"{clock(left)} left"]),
        ]

    def __rich__(self) -> "RenderableType":
        """The live display."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        if self.step is None:
            return "preparing the first step"
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self.step.steps, completed=self.step.step, width=30)
        doing = "training" if self.measuring is None else f"measuring {self.measuring.done}/{self.measuring.pictures}"
        head.add_row(
            f"epoch {self.step.epoch}/{self.step.epochs}", f"step {self.step.step}/{self.step.steps}", bar, doing
        )
        rows: list[RenderableType] = [head, "  ".join(self._tail())]
        if self.measured is not None and self.best is not None:
            best = self.best.entry
            rows.append(
                f"last evaluation (epoch {self.measured.entry['epoch']}): {precisions(self.measured.entry)}; best: "
                f"epoch {best['epoch']}, {precisions(best)}"
            )
        return Group("", *rows, self._terms())

    def _terms(self) -> "RenderableType":
        """The losses, a row a part of the network; of the last evaluation beside those of the last steps."""
        from rich.table import Table

        losses = self.losses()
        validation: Mapping[str, float] = {} if self.measured is None else self.measured.entry.get("losses", {})
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
    """The parts of one row and their sum, as text."""
    own = {term: value for term, value in losses.items() if term.split(".")[0] == name}
    return [f"{own[f'{name}.{part}']:.3f}" if f"{name}.{part}" in own else "" for part in LOSS_PARTS] + [
        f"{sum(own.values()):.3f}" if own else ""
    ]


def precisions(entry: Mapping[str, Any]) -> str:
    """Mask and box AP of an evaluation, in per cent."""
    kinds = {"segm": "mask AP", "bbox": "box AP"}
    return ", ".join(
        f"{label} {'-' if entry[kind]['AP'] < 0 else format(100 * entry[kind]['AP'], '.1f')}"
        for kind, label in kinds.items()
        if kind in entry
    )


def clock(seconds: float) -> str:
    """3:07, 1:02:03, 2 d 3:04:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return (f"{days} d " if days else "") + (
        f"{hours}:{minutes:02d}:{rest:02d}" if hours or days else f"{minutes}:{rest:02d}"
    )


@contextmanager
def watching(minutes: float | None, memory: Callable[[], float | None]) -> Iterator[Watch]:
    """Shows a training while the block runs."""
    from rich.live import Live

    console = messages()
    watch = Watch(console, minutes, memory)
    if not console.is_terminal:
        yield watch
        watch.close()
        return
    with Live(console=console, transient=True, refresh_per_second=4, get_renderable=watch.__rich__):
        yield watch
        watch.close()
