"""Parts of a split: validation images that are held out of the training images, a sample of the validation images."""

import hashlib
import json
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

from htc.data.coco import Splits, read_coco
from htc.data.coco_records import listed_name
from htc.data.formats.converted import ANNOTATIONS_FOLDER
from htc.data.record_values import KnownIds, own_id
from htc.errors import DataError
from htc.files import write_json


def split_off(splits: Splits, share: float, destination: Path) -> Splits:
    """Split the training data: about `share` of its images, chosen by a hash of their names, become the validation
    split.

    Therefore an image stays in its split when others are added. Images with the same value of `group` in their record
    (crops of one micrograph, frames of one video) stay together. Raises `DataError` if either split would be empty.
    """
    if not 0 < share < 1:
        raise DataError(f"--val-share {share:g}: give a fraction between 0 and 1, such as 0.2")
    read_coco(splits.train_annotations, splits.train_images)
    content = json.loads(splits.train_annotations.read_bytes())
    chosen = {own_id(image["id"]) for image in content["images"] if _hash_value(image) < share}
    parts = {"val": chosen, "train": {own_id(image["id"]) for image in content["images"]} - chosen}
    empty = [part for part, ids in parts.items() if not ids]
    if empty:
        raise DataError(
            f"--val-share {share:g} of {len(content['images'])} images leaves no image for {empty[0]}; give another "
            f"fraction"
        )
    files = {part: destination / ANNOTATIONS_FOLDER / f"instances_{part}_split.json" for part in parts}
    for part, ids in parts.items():
        write_json(files[part], _only(content, ids))
    return replace(
        splits, train_annotations=files["train"], val_annotations=files["val"], val_images=splits.train_images
    )


def fold_splits(splits: Splits, folds: int, destination: Path) -> list[Splits]:
    """Divide the training images into folds of about equal size and return the splits of each: it is the validation
    split, and the others are the training split. Images with the same `group` stay together, as in `split_off`.

    Raises `DataError` if there are fewer images (or groups) than folds, or a validation split.
    """
    if splits.val_annotations is not None:
        raise DataError(
            f"--folds {folds} evaluates on the training images in turn, and there is a validation split "
            f"({splits.val_annotations}): remove --folds, or give only --train-annotations and --train-images"
        )
    read_coco(splits.train_annotations, splits.train_images)
    content = json.loads(splits.train_annotations.read_bytes())
    groups: dict[float, set[int | str]] = {}
    for image in content["images"]:
        groups.setdefault(_hash_value(image), set()).add(image["id"])
    if len(groups) < folds:
        raise DataError(
            f"--folds {folds}: {splits.train_annotations} has {len(groups)} images or groups of them; give fewer folds"
        )
    parts: list[set[int | str]] = [set() for _ in range(folds)]
    for value in sorted(groups, key=lambda value: (-len(groups[value]), value)):
        min(parts, key=len).update(groups[value])
    everything, found = set().union(*parts), []
    for number, part in enumerate(parts, 1):
        files = {
            name: destination / ANNOTATIONS_FOLDER / f"instances_{name}_fold{number}.json" for name in ("train", "val")
        }
        write_json(files["train"], _only(content, everything - part))
        write_json(files["val"], _only(content, part))
        found.append(Splits(files["train"], splits.train_images, files["val"], splits.train_images))
    return found


def validation_part(splits: Splits, images: int, destination: Path) -> Splits:
    """Return the splits with `images` of the validation images, spread evenly, in a file below `destination`; the
    splits as they are if there are no more.
    """
    if splits.val_annotations is None:
        return splits
    content = json.loads(splits.val_annotations.read_bytes())
    count = len(content["images"])
    if images >= count:
        return splits
    chosen = {own_id(content["images"][index * count // images]["id"]) for index in range(images)}
    file = destination / ANNOTATIONS_FOLDER / "instances_val_part.json"
    write_json(file, _only(content, chosen))
    return replace(splits, val_annotations=file)


def _hash_value(image: dict[str, Any]) -> float:
    """A hash in 0..1 of the image's group or name."""
    name = str(image.get("group", Path(str(listed_name(image))).name))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def _only(content: dict[str, Any], ids: Container[int | str | None]) -> dict[str, Any]:
    """The images of these ids and their annotations, whose ids may be of another type (`KnownIds`)."""
    known = KnownIds(id for image in content["images"] if (id := own_id(image["id"])) is not None)
    return {
        **content,
        "images": [image for image in content["images"] if own_id(image["id"]) in ids],
        "annotations": [one for one in content["annotations"] if known.find(one["image_id"]) in ids],
    }
