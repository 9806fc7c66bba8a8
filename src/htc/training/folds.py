"""Cross-validation: an honest AP where no image can be spared, and one model trained on all of them.

Each fold trains on the other folds and is evaluated on its own images. AP is that of all folds at the same epoch, the
median of their best ones: taking each fold's best epoch would choose it by the images it is evaluated on. The final
model is trained on all images with the same schedule, and stops at that epoch.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median_low, stdev
from typing import Any, Literal

from htc.config import Config
from htc.data.coco import Splits
from htc.data.held_out import fold_splits
from htc.files import write_json
from htc.metrics import Metrics
from htc.training.checkpoints import LAST
from htc.training.events import Event, Listener, Message, Phase
from htc.training.history import best_of, read_history, row_metrics
from htc.training.result import MODEL, TrainingResult
from htc.training.run import CHECKPOINTS, METRICS, Options, record_setting, run_training

FOLDS, FOLDS_FILE = "folds", "folds.json"


@dataclass(frozen=True)
class FoldRun:
    """The evaluations of one fold by their position in its training, an epoch or (with a time limit) a step, and the
    position of the schedule's end.
    """

    history: Sequence[dict[str, Any]]
    unit: Literal["epoch", "step"]
    whole: int

    @property
    def best(self) -> float:
        """The share of the training (0..1) at which the evaluation was the best."""
        return best_of(self.history)[self.unit] / self.whole

    def at(self, share: float) -> dict[str, Any]:
        """Return the evaluation nearest to a share of the training."""
        return min(self.history, key=lambda entry: abs(entry[self.unit] / self.whole - share))


def train_folds(
    config: Config, fitted: Config, splits: Splits, out: Path, folds: int, options: Options, listener: Listener
) -> TrainingResult:
    """Train a model for each fold in `out/folds/N`, then one on all training images in `out`.

    `fitted` is `config` with the classes of the data, `splits` has the training images alone. `options.minutes` is
    divided over the trainings; `options.limit` is the plan of one. With `options.resume`, finished folds are kept and
    an unfinished one is resumed. Writes `folds.json`: the epoch, and of each metric the mean, the standard deviation
    and the values of the folds; `metrics.json` has the means. Raises what `run_training` raises.
    """
    begin = options.started or time.monotonic()
    record_setting(out, fitted, options)  # a resumed call needs it before the final training
    parts = fold_splits(splits, folds, out / "data")
    runs: list[FoldRun] = []
    for number, part in enumerate(parts, 1):
        folder = out / FOLDS / str(number)
        listener(Phase(f"fold {number} of {folds}"))
        if not (options.resume and (folder / MODEL).is_dir()):
            resume = options.resume and (folder / CHECKPOINTS / LAST).is_file()
            own = replace(_limited(options, begin, folds + 2 - number, runs), resume=resume, choices=())
            run_training(config, part, folder, own, _of_fold(listener, number, folds))
        history = read_history(folder)
        limited = options.limit is not None
        whole = max(1, history[-1]["step"]) if limited else config.training.epochs
        runs.append(FoldRun(history, "step" if limited else "epoch", whole))
    share = median_low([run.best for run in runs])
    values = [row_metrics(run.at(share)) for run in runs]
    epoch = median_low([int(run.at(share)["epoch"]) for run in runs])
    summary = {"folds": folds, "epoch": epoch, "share": share, **_spread(values)}
    precision = summary.get("segm", summary["bbox"])["AP"]
    listener(
        Message(
            f"cross-validation over {folds} folds: AP {100 * precision['mean']:.1f} ± {100 * precision['std']:.1f} "
            f"({', '.join(f'{100 * value:.1f}' for value in precision['values'])}) at epoch {epoch}, the median of the "
            f"best; the final model is trained on all images up to there"
        )
    )
    listener(Phase("training on all images"))
    final = _limited(options, begin, 1, runs)
    if final.limit is not None:
        final = replace(final, limit=replace(final.limit, stop=share))
    else:
        final = replace(final, stop_epoch=epoch)
    resume = options.resume and (out / CHECKPOINTS / LAST).is_file()
    result = run_training(
        config, replace(splits, val_annotations=None, val_images=None), out, replace(final, resume=resume), listener
    )
    means = _means(values)
    write_json(out / FOLDS_FILE, summary)
    write_json(
        out / METRICS, {**means, "model": {"epoch": epoch, "step": result.steps, "is": f"the mean of {folds} folds"}}
    )
    return replace(result, metrics=Metrics(means))


def _limited(options: Options, begin: float, runs_left: int, done: Sequence[FoldRun]) -> Options:
    """Return the options with an equal part of the time that is left; the steps are those of the fold before."""
    if options.limit is None or options.minutes is None:
        return options
    start = time.monotonic() if done else begin
    minutes = max(0.0, options.minutes - (start - begin) / 60) / runs_left
    steps = done[-1].whole if done else options.limit.steps
    limit = replace(options.limit, minutes=minutes, started=start, steps=steps)
    return replace(options, minutes=minutes, started=start, limit=limit)


def _of_fold(listener: Listener, number: int, folds: int) -> Listener:
    """Return the listener, which gets the phases with the fold's number."""

    def tell(event: Event) -> None:
        listener(Phase(f"fold {number} of {folds}: {event.name}") if isinstance(event, Phase) else event)

    return tell


def _spread(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean, standard deviation and values of every metric over the folds; undefined values (-1) are left out."""

    def spread(of_folds: list[float]) -> dict[str, Any]:
        known = [value for value in of_folds if value >= 0]
        if not known:
            return {"mean": -1.0, "std": -1.0, "values": of_folds}
        return {"mean": mean(known), "std": stdev(known) if len(known) > 1 else 0.0, "values": of_folds}

    return _combined(values, spread)


def _means(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of every metric over the folds in which it is defined; -1 if it is in none."""
    return _combined(values, lambda of_folds: mean(known) if (known := [one for one in of_folds if one >= 0]) else -1.0)


def _combined(values: Sequence[Mapping[str, Any]], combine: Callable[[list[float]], Any]) -> dict[str, Any]:
    """Combine the metrics of the folds, which may be nested; a class that a fold does not have is left out there."""
    combined: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in values for name in one):
        present = [one[name] for one in values if name in one]
        nested = isinstance(present[0], Mapping)
        combined[name] = _combined(present, combine) if nested else combine([float(value) for value in present])
    return combined
