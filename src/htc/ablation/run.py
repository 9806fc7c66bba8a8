"""Run an ablation on one dataset: train every row of a table with every seed, evaluate and compare; resumable.

Rows with the same configuration (Tables 2 and 4 share two) are trained once. The seeds are the outer loop, so that the
table is complete after one seed.
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
from htc.evaluation.run import evaluate_model, evaluate_stages
from htc.files import write_json
from htc.inference.device import choose_device
from htc.inference.ensemble import EnsemblePredictor
from htc.inference.load import load_with_settings
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
    """The extent of an ablation; the length of each training is part of its configuration."""

    seeds: tuple[int, ...] = (0, 1, 2)
    minutes: float | None = None
    """Start no further training after this many minutes; the same call continues later."""
    device: str = "auto"
    workers: int = 0


@dataclass(frozen=True)
class RowResult:
    """The results of one row with one seed."""

    row: int
    seed: int
    results: Path
    """COCO result file for the validation images."""


OnMessage = Callable[[str], None]
"""Receives progress messages for the user."""


def run_ablation(
    tables: Sequence[AblationTable],
    splits: Splits,
    out: Path,
    budget: Budget = Budget(),
    on_message: OnMessage | None = None,
    progress: Listener | None = None,
) -> dict[int, tuple[RowResult, ...]]:
    """Train and evaluate what is still missing in `out`; return the results by table number, without unfinished rows.

    Raises `DataError` without validation images, `OutputError` if `out` contains an ablation of another dataset, and
    what a training raises.
    """
    if splits.val_annotations is None or splits.val_images is None:
        raise DataError(
            "an ablation needs a validation set: add --val-annotations and --val-images, or use a --data folder with "
            "a validation set"
        )
    dataset = read_coco(splits.train_annotations, splits.train_images)
    _claim(out, splits)
    deadline = None if budget.minutes is None else time.monotonic() + 60 * budget.minutes
    planned = [_planned(table, index, row, dataset) for table in tables for index, row in enumerate(table.rows)]
    stages = {
        one.shared: tuple(dict.fromkeys(other.stages for other in planned if other.shared == one.shared))
        for one in planned
    }
    results: dict[int, list[RowResult]] = {table.number: [] for table in tables}
    for seed in budget.seeds:
        for one in planned:
            folder = out / TRAININGS / f"{one.training}-seed{seed}"
            if not (folder / MODEL).is_dir() and deadline is not None and time.monotonic() > deadline:
                continue
            _report(on_message, f"table {one.table}, {one.name}, seed {seed}")
            _train(one.config, splits, folder, budget, seed, progress)
            _evaluate(one, stages[one.shared], splits, folder, budget)
            results[one.table].append(RowResult(one.index, seed, one.results(folder)))
    return {number: tuple(of_table) for number, of_table in results.items()}


@dataclass(frozen=True)
class _Planned:
    """A row of a table, with its configuration for this dataset."""

    table: int
    index: int
    name: str
    config: Config
    training: str
    stages: StageSubset
    augment: str | None

    @property
    def shared(self) -> tuple[str, str]:
        """Key of the evaluation: rows with equal keys share one pass over the validation images."""
        return self.training, self.variant

    @property
    def variant(self) -> str:
        """Suffix for the test-time settings, except mask stages, in which rows that share a training differ."""
        soft = self.config.inference.soft_nms
        return ("" if soft is None else f"_{soft.kind}_soft_nms") + ("" if self.augment is None else "_augmented")

    def results(self, folder: Path, stages: StageSubset | None = None) -> Path:
        """Return the path of the COCO results with masks of these stages (None: the row's)."""
        return folder / f"results_stages_{'-'.join(map(str, stages or self.stages))}{self.variant}.json"


def _planned(table: AblationTable, index: int, row: Row, dataset: Dataset) -> _Planned:
    config = fit_to_data(row.config, dataset, "none" if row.config.semantic is None else "auto")
    return _Planned(
        table.number,
        index,
        row.name,
        config,
        config_digest(config),
        row.mask_stages or tuple(range(1, config.cascade.num_stages + 1)),
        row.augment,
    )


def config_digest(config: Config) -> str:
    """Hash every setting that affects training; equal if and only if the trained weights would be. Test-time settings
    are ignored.
    """
    learned = config.model_dump(mode="json", exclude={"inference", "preset"})
    return hashlib.blake2b(json.dumps(learned, sort_keys=True).encode(), digest_size=5).hexdigest()


def _claim(out: Path, splits: Splits) -> None:
    """Record the dataset in the folder; raises `OutputError` if the folder belongs to another dataset."""
    paths = {name: value for name, value in vars(splits).items() if not isinstance(value, bool)}
    data: dict[str, Any] = {name: None if path is None else str(path.resolve()) for name, path in paths.items()}
    if not splits.holes:
        data["holes"] = False  # absent in the records of older versions, which means true
    path = out / SETTING
    if path.is_file():
        earlier = json.loads(path.read_text(encoding="utf-8")).get("data")
        if earlier != data:
            raise OutputError(f"{out} contains an ablation of another dataset ({earlier}): set another --out")
        return
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"{out} is not empty and does not contain an ablation: set another --out")
    write_json(path, {"data": data})


def _train(config: Config, splits: Splits, folder: Path, budget: Budget, seed: int, progress: Listener | None) -> None:
    """Train into the folder: start, resume, or do nothing if the training is finished."""
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


def _evaluate(one: _Planned, subsets: Sequence[StageSubset], splits: Splits, folder: Path, budget: Budget) -> None:
    """Predict the validation images in one pass and write a result file for each subset of mask stages."""
    if all(one.results(folder, subset).is_file() for subset in subsets):
        return
    assert splits.val_annotations is not None
    assert splits.val_images is not None
    chosen = {**one.config.inference.model_dump(), "mask_stages": None}
    settings = [Setting(("inference", name), value, "the ablation") for name, value in chosen.items()]
    predictor = load_with_settings(folder / MODEL, None, choose_device(budget.device), settings)
    if one.augment is not None:
        augmented = EnsemblePredictor([predictor], parse_views(one.augment))
        _, predicted = evaluate_model(augmented, splits.val_annotations, splits.val_images)
        results = {one.stages: predicted}
    else:
        _, results = evaluate_stages(predictor, splits.val_annotations, splits.val_images, subsets)
    for subset, of_subset in results.items():
        with results_file(one.results(folder, subset)) as file:
            file.add(of_subset)


def _report(on_message: OnMessage | None, line: str) -> None:
    if on_message is not None:
        on_message(line)


def truth_of(splits: Splits) -> Mapping[str, Any]:
    """Read the validation annotations."""
    assert splits.val_annotations is not None
    return read_annotations(splits.val_annotations)


def results_by_row(row_results: Sequence[RowResult], rows: int) -> Iterator[list[tuple[int, list[dict[str, Any]]]]]:
    """Yield the (seed, results) of each row, read from the files."""
    for row in range(rows):
        yield [(one.seed, read_results(one.results)) for one in row_results if one.row == row]
