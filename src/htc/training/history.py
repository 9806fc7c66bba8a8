"""The losses and the evaluation history of a run: `losses.csv`, `history.json`, `validation.csv`, and curves."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from htc.errors import DataError
from htc.evaluation.coco import MetricValues
from htc.files import write_json, write_text
from htc.visual.curves import draw_average_precision, draw_losses

HISTORY, LOSSES, CURVES_FOLDER, TABLE = "history.json", "losses.csv", "curves", "validation.csv"
LEADING = ("step", "epoch", "learning_rate", "total")
"""The columns of `losses.csv` before those of the loss terms."""
CURVES_SHOWN = {
    "mask AP": ("segm", "AP"),
    "mask AP50": ("segm", "AP50"),
    "box AP": ("bbox", "AP"),
    "box AP50": ("bbox", "AP50"),
}
NO_METRICS = ("epoch", "step", "losses")
"""Keys of a history entry that are not metrics."""


def precision(entry: dict[str, Any]) -> float:
    """Return the metric that selects the best model: mask AP, or box AP without masks; 0..1, -1 if undefined."""
    return entry.get("segm", entry["bbox"])["AP"]


def evaluations_since_best(history: Sequence[dict[str, Any]]) -> int:
    """Return the number of evaluations since the best one; 0 while AP is undefined."""
    values = [precision(entry) for entry in history]
    return 0 if max(values) < 0 else len(values) - 1 - values.index(max(values))


def best_of(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the entry of the best evaluation, whose weights were kept."""
    return history[-1 - evaluations_since_best(history)]


def row_metrics(entry: dict[str, Any]) -> MetricValues:
    """Return only the metrics of a history entry."""
    return {kind: values for kind, values in entry.items() if kind not in NO_METRICS}


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Read the history that `Validation` wrote; empty before the first evaluation. A loss of null is NaN."""
    path = folder / HISTORY
    history = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return [_with_losses(entry, lambda value: math.nan if value is None else value) for entry in history]


def write_history(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write the history; a loss that is not finite, which JSON cannot contain, becomes null. Raises `OutputError`."""
    written = [_with_losses(entry, lambda value: value if math.isfinite(value) else None) for entry in history]
    write_json(folder / HISTORY, written)


def _with_losses(entry: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    losses = {name: change(value) for name, value in entry.get("losses", {}).items()}
    return {**entry, "losses": losses} if losses else entry


def read_losses(path: Path) -> tuple[list[int], dict[str, list[float]]]:
    """Steps and values by term of the `losses.csv` that `LossRecord` wrote; raises `DataError` when it is damaged."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = list(csv.reader(stream)) or [list(LEADING)]
            names = header[len(LEADING) :]
            return [int(row[0]) for row in rows], {
                name: [float(row[i + len(LEADING)]) for row in rows] for i, name in enumerate(names)
            }
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is not a record of losses: {error}") from error


def flat(entry: dict[str, Any]) -> dict[str, float]:
    """Flatten a history entry to one row: `segm.AP`, `per_class.cat.segm`, `losses.stage1.mask`, `losses.total`, ..."""
    row: dict[str, float] = {"epoch": entry["epoch"], "step": entry["step"]}
    for kind, values in row_metrics(entry).items():
        for name, value in values.items():
            row |= (
                {f"{kind}.{name}.{one}": number for one, number in value.items()}
                if isinstance(value, dict)
                else {f"{kind}.{name}": value}
            )
    if "losses" in entry:
        row |= {f"losses.{name}": value for name, value in entry["losses"].items()}
        row["losses.total"] = sum(entry["losses"].values())
    return row


def write_table(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write the history as CSV, one row for each evaluation."""
    rows = [flat(entry) for entry in history]
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def draw_curves(folder: Path) -> None:
    """Draw `curves/losses.png` and `curves/average_precision.png` from the losses and history of a run folder."""
    steps, losses = read_losses(folder / LOSSES)
    history = read_history(folder)
    with_losses = [entry for entry in history if "losses" in entry]
    validation = {
        name: [entry["losses"].get(name, 0.0) for entry in with_losses]
        for name in (with_losses[-1]["losses"] if with_losses else ())
    }
    curves = folder / CURVES_FOLDER
    draw_losses(curves / "losses.png", steps, losses, [entry["step"] - 1 for entry in with_losses], validation)
    draw_average_precision(curves / "average_precision.png", [entry["epoch"] for entry in history], _series(history))


def _series(history: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    kinds = {kind for entry in history for kind in entry}
    return {
        name: [entry.get(kind, {}).get(number, -1.0) for entry in history]
        for name, (kind, number) in CURVES_SHOWN.items()
        if kind in kinds
    }
