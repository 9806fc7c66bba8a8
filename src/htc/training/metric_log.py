"""Logs losses, evaluations and hyperparameters of a training to its loggers, each step once also after a resume."""

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
"""Metrics beside the hyperparameters in TensorBoard's table of runs."""
REFUSED_BY_MLFLOW = re.compile(r"[^A-Za-z0-9_. -]")


class MetricLog(Callback):
    """Logs what `LossRecord` and `Validation` record: place it behind them.

    Training losses are `train/TERM` and `train/total`, beside them `learning_rate`; evaluations are named as in
    `validation.csv`, with `/` for the first dot (`segm/AP`). Steps are numbered as in `losses.csv`, and an evaluation
    has the number of the step before it. What a logger has received before an interruption (`OpenLogger.logged`) is
    not logged again.

    Raises `OutputError` if a logger that was given by name fails.
    """

    def __init__(self, folder: Path, loggers: Sequence[OpenLogger]):
        self.folder = folder
        self.loggers = loggers
        self._terms = StepTerms()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts from the step at which the training stands."""
        self._terms.start(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Notes the learning rate of the step: at its end the schedule has moved on."""
        self._rate = max(group["lr"] for group in optimizer.param_groups)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Logs the losses of a step that is done."""
        terms = self._terms.add(trainer, outputs["terms"])
        if terms is None:
            return  # more batches make this step
        step = trainer.global_step - 1
        values = {f"train/{name}": value for name, value in terms.items()}
        values |= {"train/total": sum(terms.values()), "learning_rate": self._rate}
        self._log(values, step, [one for one in self.loggers if step >= one.logged.steps])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the evaluation, if there was one."""
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
    """Raises `OutputError` where a logger given by name fails; a user's own raises what it raises."""
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
        # Lightning writes them to the event file only with a metric of its own, of which there would be no values.
        from torch.utils.tensorboard.summary import hparams

        writer = one.logger.experiment.file_writer
        assert writer is not None
        for summary in hparams(dict(values), dict.fromkeys(SHOWN, 0.0)):
            writer.add_summary(summary)


def _mlflow_names(values: Mapping[str, float]) -> dict[str, float]:
    """Names with the characters that MLflow accepts: `AR@100` becomes `AR_at_100`, others their code points.

    Lightning would remove them, and two class names could become one.
    """
    named: dict[str, float] = {}
    for name, value in values.items():
        kind, slash, rest = name.partition("/")
        rest = REFUSED_BY_MLFLOW.sub(lambda one: f"u{ord(one[0]):04x}", rest.replace("@", "_at_"))
        named[kind + slash + rest] = value
    return named


def flat_values(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, its keys joined by dots; lists become text.

    Example:
        >>> flat_values({"training": {"epochs": 2, "milestones": [1]}})
        {'training.epochs': 2, 'training.milestones': '1'}
    """
    found: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat_values(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return found


@contextmanager
def logging_to(
    loggers: Sequence[str | Logger],
    folder: Path,
    hyperparameters: Mapping[str, Any],
    resume: Path | None,
    progress: Listener | None,
) -> Iterator[tuple[list[Logger], list[Callback]]]:
    """The Trainer's loggers and the callback that logs to them, on every process; only the first one opens them.

    `hyperparameters` may be nested, with keys that are strings; runs that begin here receive them. `resume` is the
    checkpoint to resume from. Raises what `opened_loggers` raises, on every process.
    """
    if not loggers and not (folder / RECORD).exists():
        yield [], []
        return
    opened: list[OpenLogger] = []

    def open_all() -> None:
        opened.extend(stack.enter_context(opened_loggers(loggers, folder, _reached(folder, resume))))
        for one in opened:
            if one.is_new:  # now: Lightning saves them when it sets up the Trainer
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
