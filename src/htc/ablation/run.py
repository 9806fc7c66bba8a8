"""An ablation on one data set: every row of a table trained with every seed, measured, compared; resumable training by
training.

Rows that are the same configuration (Tables 2 and 4 share two) are trained once. Seeds come outermost, so that a first
complete table is there after one seed.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from htc.ablation.tables import AblationTable, Row
from htc.config import Config
from htc.data.coco import Splits, read_coco
from htc.data.dataset import Dataset
from htc.errors import DataError, OutputError
from htc.evaluation.files import read_annotations, read_results
from htc.evaluation.run import evaluate_model, evaluate_stages_with_results
from htc.files import write_json
from htc.inference.ensemble import EnsemblePredictor
from htc.inference.load import load
from htc.inference.outputs import results_file
from htc.inference.stages import StageSubset
from htc.inference.views import parse_views
from htc.settings.layers import Setting
from htc.training.events import Listener
from htc.training.finetune import fit_to_data
from htc.training.result import MODEL
from htc.training.run import CHECKPOINTS, Options, run_training

SETTING, TRAININGS = "ablation.json", "trainings"


@dataclass(frozen=True)
class Budget:
    """How much is trained; how long each training is, the configurations say."""

    seeds: tuple[int, ...] = (0, 1, 2)
    minutes: float | None = None
    """Begin no further training after so many minutes; the same call goes on later."""
    device: str = "auto"
    workers: int = 0


@dataclass(frozen=True)
class RowResult:
    """One row with one seed."""

    row: int
    seed: int
    results: Path
    """COCO results of the validation images."""


OnMessage = Callable[[str], None]
"""Receives a line for the person who waits."""


def run_ablation(
    tables: Sequence[AblationTable],
    splits: Splits,
    out: Path,
    budget: Budget = Budget(),
    tell: OnMessage | None = None,
    progress: Listener | None = None,
) -> dict[int, tuple[RowResult, ...]]:
    """Trains and measures what is still missing in `out`; for each table number what is measured, rows of unfinished
    seeds left out.

    Raises `DataError` without validation images, `OutputError` if `out` holds an ablation of other data or settings,
    and what a training raises.
    """
    if splits.val_annotations is None or splits.val_images is None:
        raise DataError(
            "an ablation is measured on validation images: give --val-annotations and --val-images, or a --data "
            "folder that has them"
        )
    dataset = read_coco(splits.train_annotations, splits.train_images)
    _claim(out, splits)
    deadline = None if budget.minutes is None else time.monotonic() + 60 * budget.minutes
    planned = [_planned(table, place, row, dataset) for table in tables for place, row in enumerate(table.rows)]
    stages = {
        one.measured: tuple(dict.fromkeys(other.stages for other in planned if other.measured == one.measured))
        for one in planned
    }
    found: dict[int, list[RowResult]] = {table.number: [] for table in tables}
    for seed in budget.seeds:
        for one in planned:
            folder = out / TRAININGS / f"{one.training}-seed{seed}"
            if not (folder / MODEL).is_dir() and deadline is not None and time.monotonic() > deadline:
                continue
            _say(tell, f"table {one.table}, {one.name}, seed {seed}")
            _train(one.config, splits, folder, budget, seed, progress)
            _measure(one, stages[one.measured], splits, folder, budget)
            found[one.table].append(RowResult(one.place, seed, one.results(folder)))
    return {number: tuple(measured) for number, measured in found.items()}


@dataclass(frozen=True)
class _Planned:
    """A row on this data."""

    table: int
    place: int
    name: str
    config: Config
    training: str
    stages: StageSubset
    augment: str | None

    @property
    def measured(self) -> tuple[str, str]:
        """Rows with equal values share one pass over the validation images."""
        return self.training, self.variant

    @property
    def variant(self) -> str:
        """The test-time settings, besides the mask stages, in which rows that share a training differ."""
        soft = self.config.inference.soft_nms
        return ("" if soft is None else f"_{soft.kind}_soft_nms") + ("" if self.augment is None else "_augmented")

    def results(self, folder: Path, stages: StageSubset | None = None) -> Path:
        """Where the COCO results with masks of these stages (None: the row's) lie."""
        return folder / f"results_stages_{'-'.join(map(str, stages or self.stages))}{self.variant}.json"


def _planned(table: AblationTable, place: int, row: Row, dataset: Dataset) -> _Planned:
    config = fit_to_data(row.config, dataset, "none" if row.config.semantic is None else "auto")
    return _Planned(
        table.number,
        place,
        row.name,
        config,
        config_digest(config),
        row.mask_stages or tuple(range(1, config.cascade.num_stages + 1)),
        row.augment,
    )


def config_digest(config: Config) -> str:
    """A name for a configuration's training: equal exactly if what is learned is equal. Test-time settings do not
    count.
    """
    learned = config.model_dump(mode="json", exclude={"inference", "preset"})
    return hashlib.blake2b(json.dumps(learned, sort_keys=True).encode(), digest_size=5).hexdigest()


def _claim(out: Path, splits: Splits) -> None:
    """Makes the folder this data set's; raises `OutputError` if it is another's."""
    data = {name: None if path is None else str(path.resolve()) for name, path in vars(splits).items()}
    path = out / SETTING
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8")).get("data")
        if earlier != data:
            raise OutputError(f"{out} holds an ablation of other data ({earlier}): give another --out")
        return
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"{out} is not empty and holds no ablation: give another --out")
    write_json(path, {"data": data})


def _train(config: Config, splits: Splits, folder: Path, budget: Budget, seed: int, progress: Listener | None) -> None:
    """Trains into the folder, goes on with a training begun there, or leaves a finished one as it is."""
    if (folder / MODEL).is_dir():
        return
    resume = (folder / CHECKPOINTS / "last.ckpt").is_file()
    if folder.exists() and not resume:
        shutil.rmtree(folder)  # it was interrupted before its first checkpoint
    plain = Splits(splits.train_annotations, splits.train_images, None, None)
    semantic = "none" if config.semantic is None else "auto"
    run_training(
        config,
        plain,
        folder,
        Options(seed=seed, device=budget.device, resume=resume, semantic=semantic, workers=budget.workers),
        progress,
    )


def _measure(one: _Planned, subsets: Sequence[StageSubset], splits: Splits, folder: Path, budget: Budget) -> None:
    """Writes the trained model's results on the validation images, one file a subset of mask stages, in one pass
    over them.
    """
    if all(one.results(folder, subset).is_file() for subset in subsets):
        return
    assert splits.val_annotations is not None
    assert splits.val_images is not None
    chosen = {**one.config.inference.model_dump(), "mask_stages": None}
    settings = [Setting(("inference", name), value, "the ablation") for name, value in chosen.items()]
    predictor = load(folder / MODEL, device=budget.device, settings=settings)
    if one.augment is not None:
        augmented = EnsemblePredictor([predictor], parse_views(one.augment))
        _, found = evaluate_model(augmented, splits.val_annotations, splits.val_images)
        results = {one.stages: found}
    else:
        _, results = evaluate_stages_with_results(predictor, splits.val_annotations, splits.val_images, subsets)
    for subset, found in results.items():
        with results_file(one.results(folder, subset)) as file:
            file.add(found)


def _say(tell: OnMessage | None, line: str) -> None:
    if tell is not None:
        tell(line)


def truth_of(splits: Splits) -> Mapping[str, Any]:
    """The validation annotations."""
    assert splits.val_annotations is not None
    return read_annotations(splits.val_annotations)


def results_by_row(measured: Sequence[RowResult], rows: int) -> Iterator[list[tuple[int, list[dict[str, Any]]]]]:
    """For each row its (seed, results), read from the files."""
    for row in range(rows):
        yield [(one.seed, read_results(one.results)) for one in measured if one.row == row]
