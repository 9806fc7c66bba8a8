"""AP of the presets: published elsewhere (with the source), or measured with this library (with data and command)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """AP in percent; None if the source gives none."""

    box_ap: float | None
    mask_ap: float | None
    images: str
    source: str


def _paper(box_ap: float | None, mask_ap: float, images: str, table: int) -> Published:
    return Published(box_ap, mask_ap, images, f"arXiv 1901.07518, Table {table}")


PUBLISHED: dict[str, Published] = {
    "htc_r50_fpn_20e_paper": _paper(43.2, 38.0, "val2017", 2),
    "cascade_mask_rcnn_r50_fpn_20e_paper": _paper(42.5, 36.5, "val2017", 2),
    "mask_rcnn_r50_fpn_20e_paper": _paper(None, 35.1, "val2017", 3),
    "htc_r50_dcn_table7": _paper(None, 39.5, "test-dev", 7),
    "htc_r50_dcn_syncbn_table7": _paper(None, 40.7, "test-dev", 7),
    "htc_r50_dcn_syncbn_mstrain_table7": _paper(None, 42.5, "test-dev", 7),
    "htc_senet154_table7": _paper(None, 44.3, "test-dev", 7),
}


@dataclass(frozen=True)
class MeasuredAP:
    """AP in percent, the mean over `seeds`; only completed trainings, no estimates."""

    data: str
    split: str
    epochs: int
    seeds: tuple[int, ...]
    box_ap: float
    mask_ap: float
    command: str


MEASURED_AP: dict[str, MeasuredAP] = {
    "htc_r18_small": MeasuredAP(
        "bundled nuclei", "val", epochs=8, seeds=(0,), box_ap=41.5, mask_ap=43.1, command="htc demo"
    ),
    "htc_r18_small_ga_rpn": MeasuredAP(
        "bundled nuclei",
        "val",
        epochs=8,
        seeds=(0,),
        box_ap=40.9,
        mask_ap=42.5,
        command="htc train --data src/htc/demo/nuclei --preset htc_r18_small_ga_rpn --evaluate-every 8",
    ),
}
