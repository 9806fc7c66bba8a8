"""Where the parts of a data set lie, from the flags that name them."""

from pathlib import Path
from typing import TYPE_CHECKING

from htc.cli.output import say
from htc.errors import DataError

if TYPE_CHECKING:
    from htc.data.coco import Splits


def splits_of(
    data: Path | None,
    train_json: Path | None,
    train_images: Path | None,
    val_json: Path | None,
    val_images: Path | None,
    *,
    converted: Path | None = None,
    val_share: float | None = None,
) -> "Splits":
    """Where the parts of the data lie, from --data or from the four flags; raises `DataError` that names what is
    missing.

    Data that is not COCO's is converted into the folder `converted` (None: one below runs/data).
    """
    from htc.data.coco import Splits
    from htc.data.formats.layouts import prepare_splits

    named = [train_json, train_images, val_json, val_images]
    if data is not None:
        if any(path is not None for path in named):
            raise DataError("give either --data DIR or --train-annotations with --train-images, not both")
        return prepare_splits(data, converted or Path("runs", "data", data.absolute().name), val_share, say)
    if val_share is not None:
        raise DataError(
            "--val-share divides the pictures of --data DIR; give that, or --val-annotations with --val-images"
        )
    if train_json is None or train_images is None:
        raise DataError("nothing to train on: give --data DIR, or --train-annotations JSON with --train-images DIR")
    if (val_json is None) != (val_images is None):
        raise DataError("--val-annotations and --val-images go together: give both or neither")
    return Splits(train_json, train_images, val_json, val_images)
