"""Experiment loggers of a training, by name (TensorBoard, Weights & Biases, MLflow) or as Lightning loggers.

A resumed training continues their runs: `loggers.json` in the run folder holds the id of each logger's run and how many
steps and evaluations it has received. Importing this module imports neither torch, Lightning nor any of the loggers.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from htc.errors import ConfigError, DataError, OutputError
from htc.extras import require
from htc.files import read_json, write_json

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

PROJECT = "htc"
"""Name of the W&B project and of the MLflow experiment."""
RECORD, TENSORBOARD, DATABASE = "loggers.json", "tensorboard", "mlflow.db"
TRACKING_URI = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class LoggedRun:
    """A logger's run and how much it has received: an entry of `loggers.json`."""

    run: str
    """The id of the run in the logger."""
    steps: int = 0
    """All optimizer steps before this one are logged."""
    evaluated: int = 0
    """All evaluations up to this step are logged."""
    active: bool = True
    """Whether the latest process of the training logged to it."""
    ended: bool = False
    """Whether that process closed it; a killed one does not."""


@dataclass(frozen=True)
class OpenLogger:
    """A logger whose run has been started or continued."""

    name: str
    logger: "Logger"
    logged: LoggedRun
    is_new: bool
    """Whether the run is new to this run folder; hyperparameters are logged then."""
    note: str | None = None
    """Where the user can view the log."""

    @property
    def is_ours(self) -> bool:
        """Whether the user gave the logger by name."""
        return self.name in LOGGERS


@dataclass(frozen=True)
class Reached:
    """The last step in the losses and the history of a run folder, and that of the checkpoint to resume from."""

    steps: int = 0
    """Number of steps in `losses.csv`, including those after the checkpoint."""
    evaluated: int = 0
    """Steps before the last evaluation in `history.json`; 0 without evaluations."""
    resumed: int | None = None
    """Number of steps in the checkpoint; None for a new training."""


def check_loggers(loggers: Sequence["str | Logger"]) -> None:
    """Check the names, that their packages are installed, and that W&B has an account to upload to.

    Raises:
        ConfigError: for an unknown name, with the known ones; or no account, with what to do.
        InstallationError: for a missing package, with the command that installs it.

    Example:
        >>> check_loggers(("tensorboard",))
    """
    for name in loggers:
        if not isinstance(name, str):
            continue
        if name not in LOGGERS:
            near = get_close_matches(name, LOGGERS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"unknown logger {name!r}; {hint}The loggers are {', '.join(LOGGERS)}")
        require(name, f"the logger {name}", _modules(name))
        if name == "wandb" and not _has_account():
            raise ConfigError("W&B has no account here: run `wandb login`, or set WANDB_MODE=offline to upload later")


def _modules(name: str) -> tuple[str, ...] | None:
    """The modules of a logger's extra that are needed; None: all."""
    return ("mlflow",) if name == "mlflow" and os.environ.get(TRACKING_URI) else None  # a server has the database


def _has_account() -> bool:
    """Return whether W&B can upload, or works offline. Otherwise it would prompt, and the training would wait."""
    import wandb

    online = wandb.setup(wandb.Settings(silent=True)).settings.mode == "online"
    return wandb.run is not None or not online or wandb.login(prompt=False, verify=False)


@contextmanager
def opened_loggers(loggers: Sequence["str | Logger"], folder: Path, reached: Reached) -> Iterator[list[OpenLogger]]:
    """Open the loggers of the training in `folder`, continue their runs if it is resumed, and close them at the end.

    Only the first process of a training may call it. TensorBoard writes into `folder/tensorboard`; W&B into
    `folder/wandb`; MLflow to `MLFLOW_TRACKING_URI`, else into `folder/mlflow.db`.

    Raises:
        ConfigError: if `check_loggers` raises it, if an object is not a logger, or if a service refuses the run.
        DataError: for a damaged `loggers.json`.
        OutputError: for a folder or database that cannot be written to.
    """
    from lightning.pytorch.loggers import Logger

    check_loggers(loggers)
    known = {} if reached.resumed is None else _as_of(reached, read_record(folder))
    opened: list[OpenLogger] = []
    record = {name: replace(one, active=False) for name, one in known.items()}
    with ExitStack() as stack:
        for one in dict.fromkeys(loggers):
            if isinstance(one, str):
                opened.append(stack.enter_context(_opened(one, folder, known.get(one), reached)))
            elif isinstance(one, Logger):
                opened.append(_own(one, known))
            else:
                raise ConfigError(f"loggers: {one!r} is neither one of {', '.join(LOGGERS)} nor a Lightning Logger")
        record |= {one.name: one.logged for one in opened if one.name}
        if not record:
            yield opened
            return
        _write_record(folder, record)
        try:
            with stack.pop_all():
                yield opened
        finally:  # after the loggers are closed
            with suppress(OutputError):  # a full disk ends the training with its own error
                _write_record(folder, {name: replace(one, ended=one.active) for name, one in record.items()})


def _write_record(folder: Path, record: Mapping[str, LoggedRun]) -> None:
    write_json(folder / RECORD, {name: asdict(entry) for name, entry in record.items()})


def read_record(folder: Path) -> dict[str, LoggedRun]:
    """Read `loggers.json` (logger name -> entry); empty without the file. Raises `DataError` if it is damaged."""
    path = folder / RECORD
    if not path.exists():
        return {}
    remedy = "Delete it to start new runs in the loggers"
    try:
        content = read_json(path, "a record of loggers")
    except DataError as error:
        raise DataError(f"{error}. {remedy}") from error
    try:
        return TypeAdapter(dict[str, LoggedRun]).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        fault = ": ".join([".".join(map(str, first["loc"])), first["msg"]]).lstrip(": ")
        raise DataError(f"{path} is not a record of loggers ({fault}). {remedy}") from error


def _as_of(reached: Reached, known: Mapping[str, LoggedRun]) -> dict[str, LoggedRun]:
    """Update the entries with what the latest process logged before it ended.

    W&B buffers, so after a kill it is unknown what was uploaded: repeated steps are then logged again.
    """
    return {
        name: LoggedRun(one.run, max(one.steps, reached.steps), max(one.evaluated, reached.evaluated))
        if one.active and (one.ended or name != "wandb")
        else replace(one, active=True, ended=False)
        for name, one in known.items()
    }


def _own(logger: "Logger", known: Mapping[str, LoggedRun]) -> OpenLogger:
    """Wrap the user's own logger; equal names and versions count as the same run."""
    if logger.version is None:
        return OpenLogger("", logger, LoggedRun(""), is_new=True)
    run = f"{logger.name}/{logger.version}"
    name = f"{type(logger).__module__}.{type(logger).__qualname__} {run}"
    return OpenLogger(name, logger, known.get(name, LoggedRun(run)), is_new=name not in known)


@contextmanager
def _opened(name: str, folder: Path, known: LoggedRun | None, reached: Reached) -> Iterator[OpenLogger]:
    """Open a logger given by name; exceptions of its library become `OutputError`."""
    with ExitStack() as stack:
        try:
            with _quiet():
                run = known.run if known is not None else None
                logger, run, note = stack.enter_context(LOGGERS[name](folder, run, reached.resumed))
        except Exception as error:
            stored = f" (its run {known.run} is named in {folder / RECORD})" if known is not None else ""
            raise OutputError(f"the logger {name} cannot be opened{stored}: {' '.join(str(error).split())}") from error
        logged = known if known is not None else LoggedRun(run)
        if name == TENSORBOARD and reached.resumed is not None:  # it has dropped everything after the checkpoint
            logged = LoggedRun(run, 0, min(logged.evaluated, reached.evaluated, reached.resumed))
        yield OpenLogger(name, logger, logged, known is None, note)


Opened = tuple["Logger", str, str]
"""A logger, the id of its run, and where the user can view it."""


@contextmanager
def _tensorboard(folder: Path, _run: str | None, resumed: int | None) -> Iterator[Opened]:
    """Write event files into the run folder; for a resumed run, steps after the checkpoint are purged."""
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(folder, name=TENSORBOARD, version="", default_hp_metric=False, purge_step=resumed)
    writer = logger.experiment
    try:
        yield logger, TENSORBOARD, f"TensorBoard: tensorboard --logdir {folder / TENSORBOARD}"
    finally:
        writer.close()


@contextmanager
def _wandb(folder: Path, run: str | None, _resumed: int | None) -> Iterator[Opened]:
    """Open a W&B run; a run that the user has started in this process, such as a sweep's, is used and left open."""
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    if wandb.run is not None:
        yield WandbLogger(experiment=wandb.run), wandb.run.id, f"W&B: the open run {wandb.run.id}"
        return
    # Not through Lightning, which passes `anonymous`: W&B warns about any value of it.
    opened = wandb.init(
        project=PROJECT,
        name=folder.absolute().name,
        dir=folder,
        id=run,
        resume="allow",
        settings=wandb.Settings(silent=True, console="off"),
    )
    try:
        opened.define_metric("trainer/global_step")
        opened.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        where = f"wandb sync {Path(opened.dir).parent}" if opened.offline else str(opened.url)
        yield WandbLogger(project=PROJECT, save_dir=folder, experiment=opened), opened.id, f"W&B: {where}"
    except BaseException:
        opened.finish(exit_code=1)
        raise
    opened.finish(exit_code=0)


@contextmanager
def _mlflow(folder: Path, run: str | None, _resumed: int | None) -> Iterator[Opened]:
    """Open a run of the MLflow experiment `htc`; afterwards MLflow has its earlier tracking URI again."""
    import mlflow
    from lightning.pytorch.loggers import MLFlowLogger

    before = os.environ.get(TRACKING_URI)
    own = f"sqlite:///{folder.absolute() / DATABASE}"
    artifacts = None if before else (folder.absolute() / "mlartifacts").as_uri()
    try:
        logger = MLFlowLogger(
            PROJECT, folder.absolute().name, before or own, artifact_location=artifacts, run_id=run
        )  # its `experiment` sets the tracking URI of this process and of its child processes
        opened = logger.run_id
        assert opened is not None
        if run is not None:
            logger.experiment.update_run(run, status="RUNNING")
        yield logger, opened, f"MLflow: run {opened} of experiment {PROJECT} in {before or own}"
    finally:
        mlflow.set_tracking_uri(before)  # pyright: ignore[reportArgumentType] - None unsets it


LOGGERS: Mapping[str, Callable[[Path, str | None, int | None], AbstractContextManager[Opened]]] = {
    TENSORBOARD: _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
"""Name -> function of (run folder, id of the run to continue, steps in the checkpoint to resume from)."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress log messages about new databases and experiments."""
    library_loggers = [logging.getLogger(name) for name in ("mlflow.store", "alembic", "lightning.pytorch")]
    levels = [one.level for one in library_loggers]
    for one in library_loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(library_loggers, levels, strict=True):
            one.setLevel(level)
