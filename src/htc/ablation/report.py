"""Tables of an ablation: mean and standard deviation over seeds, and bootstrap intervals of differences over images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from htc.ablation.run import RowResult, results_by_row
from htc.ablation.tables import AblationTable
from htc.evaluation.bootstrap import DRAWS, ImageMatches, draws, interval, matches, resampled
from htc.evaluation.coco import IouType

TABLE_KINDS: tuple[IouType, ...] = ("bbox", "segm")
AP_NAMES: Mapping[IouType, str] = {"bbox": "box AP", "segm": "mask AP", "boundary": "boundary AP"}


@dataclass(frozen=True)
class Difference:
    """AP of a row minus AP of the row it is compared with, over the seeds that both have."""

    against: str
    mean: float
    low: float
    """Lower end of the 95 % bootstrap interval over the validation images."""
    high: float
    by_seed: tuple[float, ...]


@dataclass(frozen=True)
class Line:
    """One row of the table with its metrics."""

    name: str
    ap: Mapping[str, tuple[float, ...]]
    """AP, 0..1, of each seed for `bbox`, `segm` and, if it is compared, `boundary`."""
    seeds: tuple[int, ...]
    published: tuple[float | None, float | None]
    differences: Mapping[str, Difference]
    """By kind; empty for a row that is not compared with another."""


def lines_of(
    table: AblationTable, row_results: Sequence[RowResult], ground_truth: Mapping[str, Any]
) -> tuple[Line, ...]:
    """Compute the lines of the table; rows without results are left out."""
    kinds = kinds_of(table)
    matched: list[dict[int, dict[str, ImageMatches]]] = []
    for row, of_seeds in zip(table.rows, results_by_row(row_results, len(table.rows)), strict=True):
        limit = row.config.inference.max_detections
        matched.append(
            {seed: {kind: matches(kind, ground_truth, results, limit) for kind in kinds} for seed, results in of_seeds}
        )
    drawn = draws(len(ground_truth["images"]), DRAWS, seed=0)

    @cache  # a row is compared with another, and others may be compared with it
    def resampled_row(index: int, seed: int, kind: IouType) -> np.ndarray:
        return resampled(matched[index][seed][kind], drawn)

    return tuple(_line(index, table, matched, resampled_row) for index in range(len(table.rows)) if matched[index])


def kinds_of(table: AblationTable) -> tuple[IouType, ...]:
    """Return the kinds of AP that are computed for every row."""
    return tuple(dict.fromkeys((*TABLE_KINDS, *table.compared)))


def _line(
    index: int,
    table: AblationTable,
    matched: Sequence[Mapping[int, Mapping[str, ImageMatches]]],
    resampled_row: Callable[[int, int, IouType], np.ndarray],
) -> Line:
    row, own = table.rows[index], matched[index]
    ap = {kind: tuple(of[kind].average_precision() for of in own.values()) for kind in kinds_of(table)}
    differences = {}
    if row.against is not None and (shared := [seed for seed in own if seed in matched[row.against]]):
        for kind in table.compared:
            pairs = [(own[seed][kind], matched[row.against][seed][kind]) for seed in shared]
            by_seed = tuple(one.average_precision() - other.average_precision() for one, other in pairs)
            low, high = interval(
                np.mean(
                    [resampled_row(index, seed, kind) - resampled_row(row.against, seed, kind) for seed in shared], 0
                )
            )
            differences[kind] = Difference(table.rows[row.against].name, float(np.mean(by_seed)), low, high, by_seed)
    return Line(row.name, ap, tuple(own), row.published, differences)


def headings(table: AblationTable) -> list[str]:
    """Return the headings of the columns of `row_cells`."""
    compared = [
        heading for kind in table.compared for heading in (f"{AP_NAMES[kind]} against", "difference [95 % interval]")
    ]
    return ["", *(AP_NAMES[kind] for kind in kinds_of(table)), *compared, "paper: box", "mask"]


def row_cells(table: AblationTable, lines: Sequence[Line]) -> list[list[str]]:
    """Format the cells of the table under `headings`, in per cent."""
    return [
        [
            line.name,
            *(_spread(line.ap[kind]) for kind in kinds_of(table)),
            *(cell for kind in table.compared for cell in _compared(line.differences.get(kind))),
            *map(_published, line.published),
        ]
        for line in lines
    ]


def markdown(table: AblationTable, lines: Sequence[Line]) -> str:
    """Format the table as Markdown."""
    named = headings(table)
    rows = [named, ["---"] * len(named), *row_cells(table, lines)]
    return f"Table {table.number}: {table.title}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def content(table: AblationTable, lines: Sequence[Line]) -> dict[str, Any]:
    """Return the table for a JSON file: AP 0..1, published AP in per cent."""
    return {
        "table": table.number,
        "title": table.title,
        "rows": [
            {
                "name": line.name,
                "seeds": list(line.seeds),
                **{kind: list(values) for kind, values in line.ap.items()},
                "published": dict(zip(TABLE_KINDS, line.published, strict=True)),
                "differences": {
                    kind: vars(one) | {"by_seed": list(one.by_seed)} for kind, one in line.differences.items()
                },
            }
            for line in lines
        ],
    }


def _spread(values: Sequence[float]) -> str:
    """Format mean ± sample standard deviation over the seeds."""
    mean = f"{100 * np.mean(values):.1f}"
    return f"{mean} ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


def _compared(difference: Difference | None) -> tuple[str, str]:
    if difference is None:
        return "", ""
    return (
        difference.against,
        f"{100 * difference.mean:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]",
    )


def _published(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
