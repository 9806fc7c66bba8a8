"""The metrics of an evaluation, as attributes, as tables and as the metrics JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from htc.table import Table

NAMES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "APs", "ap_medium": "APm", "ap_large": "APl"}
"""Attributes of `AveragePrecision`, and their names in the metrics JSON."""
LVIS_NAMES = {"ap_rare": "APr", "ap_common": "APc", "ap_frequent": "APf"}
"""Those of datasets with frequencies of their classes (LVIS)."""
KINDS = {"bbox": "box", "segm": "mask"}
"""Kinds of AP in the metrics JSON, and their names in tables."""


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's average precision (AP) and recall (AR) of boxes or of masks: 0..1, or -1 if undefined."""

    ap: float
    """Mean over IoU thresholds 0.50, 0.55, ..., 0.95 and over classes."""
    ap50: float
    ap75: float
    ap_small: float
    """AP of instances with an area below 32 x 32 pixels."""
    ap_medium: float
    ap_large: float
    """AP of instances with an area of 96 x 96 pixels or more."""
    ar: float
    """Recall with the best `max_detections` detections of each image."""
    max_detections: int
    ap_rare: float | None = None
    """LVIS: AP of the classes in 1 to 10 training images; None for other datasets."""
    ap_common: float | None = None
    """LVIS: AP of the classes in 11 to 100 training images."""
    ap_frequent: float | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, float]) -> "AveragePrecision":
        """Build from the part `bbox` or `segm` of the metrics JSON."""
        recall = next(name for name in values if name.startswith("AR@"))
        own = {attribute: values[name] for attribute, name in NAMES.items()}
        own |= {attribute: values[name] for attribute, name in LVIS_NAMES.items() if name in values}
        return cls(**own, ar=values[recall], max_detections=int(recall.removeprefix("AR@")))


class Metrics:
    """The metrics of one evaluation, as `htc.evaluate` returns them; every value 0..1, -1 undefined.

    Example:
        >>> metrics = htc.evaluate(model, "my_data")
        >>> metrics.mask.ap50
        0.713
        >>> print(metrics)  # the table of `htc evaluate`
        >>> metrics.per_class["mask AP"]
        [0.42, 0.37]
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    @property
    def box(self) -> AveragePrecision:
        """Average precision of the boxes."""
        return AveragePrecision.from_json(self._values["bbox"])

    @property
    def mask(self) -> AveragePrecision | None:
        """Average precision of the masks; None if the model or the annotations have no masks."""
        return AveragePrecision.from_json(self._values["segm"]) if "segm" in self._values else None

    @property
    def per_class(self) -> Table:
        """AP of each class: columns `class`, `box AP` and, if there are masks, `mask AP`."""
        rows = [
            {"class": name} | {f"{KINDS[kind]} AP": ap for kind, ap in values.items()}
            for name, values in self._values.get("per_class", {}).items()
        ]
        return Table.from_rows(rows)

    @property
    def members(self) -> dict[str, "Metrics"]:
        """Metrics of each member of an ensemble, by name; empty for a single model."""
        return {name: Metrics(values) for name, values in self._values.get("members", {}).items()}

    @property
    def stages(self) -> dict[str, "Metrics"]:
        """Metrics of the mask stages of the option `stages`, by name such as "1" or "1-3"."""
        return {name: Metrics(values) for name, values in self._values.get("stages", {}).items()}

    @property
    def against(self) -> Table:
        """The difference in AP from the other results (`against=`), with its 95 % interval over images.

        Columns `kind`, `AP` (of these results), `AP against` (of the others), `difference` (these minus the others),
        `low`, `high`; empty without other results.
        """
        rows = [
            {"kind": KINDS[kind], "AP": self._values[kind]["AP"], "AP against": other["AP"]}
            | {name: other[name] for name in ("difference", "low", "high")}
            for kind, other in self._values.get("against", {}).items()
        ]
        return Table.from_rows(rows)

    @property
    def table(self) -> Table:
        """A row for boxes and a row for masks, with the columns of the metrics JSON."""
        return Table.from_rows(
            [{"": name} | dict(self._values[kind]) for kind, name in KINDS.items() if kind in self._values]
        )

    def to_dict(self) -> dict[str, Any]:
        """The metrics JSON that `htc evaluate --json` writes."""
        return dict(self._values)

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, Metrics) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """AP, AP50 and AP75 in one line, in percent."""
        parts = [
            ", ".join(f"{name} {label} {percent(self._values[kind][label])}" for label in ("AP", "AP50", "AP75"))
            for kind, name in KINDS.items()
            if kind in self._values
        ]
        return f"Metrics({', '.join(parts)})"

    def __str__(self) -> str:
        """The table in percent, then each class if there are several."""
        shown = [_in_percent(self.table)]
        if len(self.per_class) > 1:
            shown.append(_in_percent(self.per_class))
        return "\n\n".join(map(repr, shown))

    def _repr_html_(self) -> str:
        """Format as HTML tables for notebooks."""
        tables = [self.table, *([self.per_class] if len(self.per_class) > 1 else [])]
        return "<br>".join(_in_percent(table)._repr_html_() for table in tables)


def percent(value: float) -> str:
    """Format 0.4312 as `43.1`, and an undefined value (-1) as `-`."""
    return "-" if value < 0 else f"{100 * value:.1f}"


def _in_percent(table: Table) -> Table:
    rows = tuple(tuple(percent(cell) if isinstance(cell, float | int) else cell for cell in row) for row in table.rows)
    return Table(table.columns, rows)
