"""Log losses, evaluations and hyperparameters of a training to its loggers, each step once, also after a resume."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from torch.optim import Optimizer

from htc.errors import OutputError
from htc.training.checkpoints import steps_done
from htc.training.distributed import by_first, rank
from htc.training.events import Listener, Message
from htc.training.history import LOSSES, flat, read_history
from htc.training.loggers import RECORD, OpenLogger, Reached, opened_loggers
from htc.training.record import StepTerms, steps_recorded

SHOWN = ("segm/AP", "bbox/AP")
"""Metrics in TensorBoard's table of hyperparameters."""
REFUSED_BY_MLFLOW = re.compile(r"[^A-Za-z0-9_. -]")


class MetricLog(Callback):
    """Callback that logs what `LossRecord` and `Validation` record; it must come after them.

    Training losses are `train/TERM` and `train/total`, with `learning_rate`; metrics of evaluations are named as in
    `validation.csv`, with `/` for the first dot (`segm/AP`). Steps are numbered as in `losses.csv`; an evaluation has
    the number of the step before it. Values that a logger received before an interruption (`OpenLogger.logged`) are
    not logged again.

    Raises `OutputError` if a logger that was given by name fails.
    """

    def __init__(self, folder: Path, loggers: Sequence[OpenLogger]):
        self.folder = folder
        self.loggers = loggers
        self._terms = StepTerms()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting from the current step of the training."""
        self._terms.start(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Store the learning rate of the step: at its end the schedule has already advanced."""
        self._rate = max(group["lr"] for group in optimizer.param_groups)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the losses of a finished step."""
        terms = self._terms.add(trainer, outputs["terms"])
        if terms is None:
            return  # the step accumulates more batches
        step = trainer.global_step - 1
        values = {f"train/{name}": value for name, value in terms.items()}
        values |= {"train/total": sum(terms.values()), "learning_rate": self._rate}
        self._log(values, step, [one for one in self.loggers if step >= one.logged.steps])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the evaluation, if there was one."""
        history, done = read_history(self.folder), trainer.global_step
        if history and history[-1]["step"] == done:
            row = flat(history[-1])
            values = {name.replace(".", "/", 1): row[name] for name in row if name not in ("epoch", "step")}
            self._log(values, done - 1, [one for one in self.loggers if done > one.logged.evaluated])

    def _log(self, values: Mapping[str, float], step: int, loggers: Sequence[OpenLogger]) -> None:
        for one in loggers:
            names = _mlflow_names(values) if isinstance(one.logger, MLFlowLogger) else values
            _attempt(one, lambda one=one, names=names: one.logger.log_metrics(dict(names), step))


def _attempt(one: OpenLogger, work: Callable[[], object]) -> None:
    """Run `work`; raise `OutputError` if a logger given by name fails. A user's own logger raises its own exception."""
    try:
        work()
    except Exception as error:
        if not one.is_ours:
            raise
        reason = " ".join(str(error).split())
        raise OutputError(f"the logger {one.name} failed: {reason}. Resume the training, with it or without") from error


def _log_hyperparameters(one: OpenLogger, values: Mapping[str, Any]) -> None:
    one.logger.log_hyperparams(dict(values))
    if one.is_ours and isinstance(one.logger, TensorBoardLogger):
        # Lightning writes them to the event file only together with a metric, for which there are no values yet.
        from torch.utils.tensorboard.summary import hparams

        writer = one.logger.experiment.file_writer
        assert writer is not None
        for summary in hparams(dict(values), dict.fromkeys(SHOWN, 0.0)):
            writer.add_summary(summary)


def _mlflow_names(values: Mapping[str, float]) -> dict[str, float]:
    """Replace characters that MLflow refuses: `AR@100` becomes `AR_at_100`, other characters their code points.

    Lightning would remove them, and two class names could become equal.
    """
    named: dict[str, float] = {}
    for name, value in values.items():
        kind, slash, rest = name.partition("/")
        rest = REFUSED_BY_MLFLOW.sub(lambda one: f"u{ord(one[0]):04x}", rest.replace("@", "_at_"))
        named[kind + slash + rest] = value
    return named


def flat_values(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dictionaries into one with dotted keys; lists become text.

    Example:
        >>> flat_values({"training": {"epochs": 2, "milestones": [1]}})
        {'training.epochs': 2, 'training.milestones': '1'}
    """
    flattened: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flattened |= flat_values(value, f"{prefix}{key}.")
        else:
            flattened[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flattened


@contextmanager
def logging_to(
    loggers: Sequence[str | Logger],
    folder: Path,
    hyperparameters: Mapping[str, Any],
    resume: Path | None,
    progress: Listener | None,
) -> Iterator[tuple[list[Logger], list[Callback]]]:
    """Yield the Trainer's loggers and the callback that logs to them, on every process; only the first opens them.

    `hyperparameters` may be nested, with string keys; they are logged to new runs. `resume` is the checkpoint to resume
    from. Raises what `opened_loggers` raises, on every process.
    """
    if not loggers and not (folder / RECORD).exists():
        yield [], []
        return
    opened: list[OpenLogger] = []

    def open_all() -> None:
        opened.extend(stack.enter_context(opened_loggers(loggers, folder, _reached(folder, resume))))
        for one in opened:
            if one.is_new:  # here, because Lightning saves them when it sets up the Trainer
                _attempt(one, lambda one=one: _log_hyperparameters(one, flat_values(hyperparameters)))

    with ExitStack() as stack:
        by_first(open_all)
        if rank() > 0:
            yield [DummyLogger() if isinstance(one, str) else one for one in loggers], []
            return
        for one in opened:
            if one.note is not None and progress is not None:
                progress(Message(one.note))
        yield [one.logger for one in opened], [MetricLog(folder, opened)] if opened else []


def _reached(folder: Path, resume: Path | None) -> Reached:
    if resume is None:
        return Reached()
    history = read_history(folder)
    return Reached(steps_recorded(folder / LOSSES), history[-1]["step"] if history else 0, steps_done(resume))
