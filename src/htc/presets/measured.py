"""AP that was measured with this library: on what, after which training, by which command. docs/results.md says more
of each.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Per cent, the mean over `seeds`; a row of what was run to the end, never an estimate."""

    data: str
    split: str
    epochs: int
    seeds: tuple[int, ...]
    box_ap: float
    mask_ap: float
    command: str


MEASURED: dict[str, Measured] = {
    "htc_r18_small": Measured(
        "bundled nuclei", "val", epochs=8, seeds=(0,), box_ap=41.5, mask_ap=43.1, command="htc demo"
    ),
    "htc_r18_small_ga_rpn": Measured(
        "bundled nuclei",
        "val",
        epochs=8,
        seeds=(0,),
        box_ap=40.9,
        mask_ap=42.5,
        command="htc train --data src/htc/demo/nuclei --preset htc_r18_small_ga_rpn --evaluate-every 8",
    ),
}
