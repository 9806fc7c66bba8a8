"""Records of every step: loss terms and image ids as CSV files, and an event for the listener."""

import csv
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Any, TextIO

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from htc.errors import OutputError
from htc.files import REMEDIES, whole_file
from htc.training.distributed import gathered
from htc.training.events import Listener, StepDone
from htc.training.history import LEADING
from htc.training.module import TrainingModule
from htc.training.schedule import StepPlan

GIB = 2**30
IMAGES_FILE = "pictures.csv"


class LossRecord(Callback):
    """Callback that appends a row for each step to a CSV file: step, epoch, learning rate, total, every weighted term.

    `pictures.csv` in the same folder lists the image ids of every step. Rows of steps that a resumed run repeats are
    dropped. Values are written with full precision, so that runs can be compared as files. If a step has several
    batches or processes, their mean is the step's loss; the first process writes.
    """

    def __init__(
        self,
        path: Path,
        progress: Listener | None = None,
        *,
        plan: StepPlan | None = None,
        waited: Callable[[], float] = lambda: 0.0,
    ):
        self.progress, self.plan, self.waited = progress, plan, waited
        self._losses = _Rows(path)
        self._images = _Rows(path.with_name(IMAGES_FILE))
        self._terms = StepTerms()
        self._seen: list[Any] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the files and keep the rows of finished steps."""
        self._terms.start(trainer)
        if trainer.is_global_zero:
            self._losses.open(trainer.global_step)
            self._images.open(trainer.global_step)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Store the learning rate of the step: at its end the schedule has already advanced."""
        self._rate = max(group["lr"] for group in optimizer.param_groups)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the rows of a finished step."""
        self._seen.extend(image_id for ids in gathered(batch.image_ids) for image_id in ids)
        terms, step = self._terms.add(trainer, outputs["terms"]), trainer.global_step
        if terms is None:
            return  # the step accumulates more batches
        if trainer.is_global_zero:
            self._losses.add(
                [*LEADING, *terms], [step - 1, trainer.current_epoch, self._rate, sum(terms.values()), *terms.values()]
            )
            self._images.add(["step", "pictures"], [step - 1, *self._seen])
            if self.progress is not None:
                self.progress(self._step_done(trainer, pl_module, terms))
        self._seen = []

    def _step_done(self, trainer: Trainer, module: LightningModule, terms: Mapping[str, float]) -> StepDone:
        steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs or 1
        if self.plan is not None and isinstance(module, TrainingModule):
            steps, epochs = self.plan.steps, ceil(self.plan.steps / module.steps_per_epoch)
        return StepDone(
            trainer.global_step,
            int(steps),
            trainer.current_epoch + 1,
            epochs,
            self._rate,
            terms,
            peak_memory(module.device),
            images=len(self._seen),
            waited=self.waited(),
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the files."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the files."""
        self._close()

    def _close(self) -> None:
        self._losses.close()
        self._images.close()


def peak_memory(device: torch.device) -> float | None:
    """Return the peak memory of this process in GiB: allocated on the GPU, else resident; None if the system does not
    report it.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB


class StepTerms:
    """The loss terms of an optimizer step: the mean of its batches' terms."""

    def __init__(self) -> None:
        self._batches: list[Mapping[str, Tensor]] = []
        self._step = 0

    def start(self, trainer: Trainer) -> None:
        """Start from the current step of the training."""
        self._step = trainer.global_step

    def add(self, trainer: Trainer, terms: Mapping[str, Tensor]) -> dict[str, float] | None:
        """Add a batch's terms; return the step's terms after its last batch, None before."""
        self._batches.append(terms)
        if trainer.global_step == self._step:
            return None
        self._step, batches, self._batches = trainer.global_step, self._batches, []
        return {name: sum(float(batch[name]) for batch in batches) / len(batches) for name in terms}


class _Rows:
    """A CSV file to which a row is appended at each step; raises `OutputError`."""

    def __init__(self, path: Path):
        self.path = path
        self._stream: TextIO | None = None

    def open(self, step: int) -> None:
        """Open the file and keep the rows of the steps before `step`; the file is replaced as a whole."""
        kept = _rows_before(self.path, step)
        with whole_file(self.path) as writer:
            writer.write(b"".join(kept))
        self._stream = self.path.open("a", newline="", encoding="utf-8")
        self._empty = not kept

    def add(self, header: list[Any], row: list[Any]) -> None:
        """Append the row, after the header if the file is empty."""
        assert self._stream is not None
        try:
            csv.writer(self._stream).writerows([header, row] if self._empty else [row])
            self._stream.flush()
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {REMEDIES.get(error.errno or 0, error.strerror or str(error))}"
            ) from error
        self._empty = False

    def close(self) -> None:
        """Close the file; rows that a full disk did not accept are lost."""
        if self._stream is not None:
            with suppress(OSError):
                self._stream.close()


def _rows_before(path: Path, step: int) -> list[bytes]:
    """Return the unchanged lines of the header and of the steps before `step`; empty without a file or at step 0."""
    if step == 0 or not path.is_file():
        return []
    header, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
    numbers = [line.partition(b",")[0] for line in lines]
    return [
        header,
        *(line for line, number in zip(lines, numbers, strict=True) if number.isdigit() and int(number) < step),
    ]


def steps_recorded(path: Path) -> int:
    """Count the steps up to the last complete row of a file of `LossRecord`; 0 without the file."""
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    numbers = [line.partition(b",")[0] for line in lines if line.endswith(b"\n")]
    return max((int(number) + 1 for number in numbers if number.isdigit()), default=0)
