"""Chooses the images of `htc demo` from a COCO-form copy of the 2018 Data Science Bowl nuclei; run once, kept to show
how.

    python scripts/bundle_nuclei.py SOURCE src/htc/demo/nuclei

SOURCE holds train/, val/ and annotations/instances_{train,val}.json whose images have the keys `group` (neighbouring
crops of one micrograph) and `stain`. Training images come from its train part and validation images from its val
part, which share no group. The choice is a function of the files alone: per kind of image, one from each group in
turn, by file name.
"""

import json
import shutil
import sys
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path

Kind = tuple[int, int, str]
COUNTS: dict[str, dict[Kind, int]] = {
    "train": {
        (256, 256, "gray"): 76,
        (256, 320, "colour"): 26,
        (256, 320, "gray"): 1,
        (260, 347, "gray"): 1,
        (360, 360, "gray"): 18,
        (520, 696, "gray"): 16,
        (512, 640, "gray"): 3,
        (1024, 1024, "gray"): 1,
    },
    "val": {
        (256, 256, "gray"): 15,
        (256, 320, "colour"): 5,
        (260, 347, "gray"): 1,
        (360, 360, "gray"): 4,
        (520, 696, "gray"): 4,
        (512, 640, "gray"): 1,
    },
}
"""(height, width, stain): about the proportions of the whole set, very large images excepted."""


def choose(images: list[dict], counts: dict[Kind, int]) -> list[dict]:
    """The chosen image records, by file name."""
    groups: dict[Kind, dict[int, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for image in sorted(images, key=lambda image: image["file_name"]):
        groups[image["height"], image["width"], image["stain"]][image["group"]].append(image)
    chosen = []
    for kind, count in counts.items():
        in_turn = [image for turn in zip_longest(*groups[kind].values()) for image in turn if image is not None]
        chosen += in_turn[:count]
    return sorted(chosen, key=lambda image: image["file_name"])


def bundle(source: Path, target: Path, split: str) -> None:
    """Writes one part: images byte by byte, and its annotations with one record a line."""
    content = json.loads((source / "annotations" / f"instances_{split}.json").read_bytes())
    images = choose(content["images"], COUNTS[split])
    ids = {image["id"] for image in images}
    (target / split).mkdir(parents=True, exist_ok=True)
    (target / "annotations").mkdir(exist_ok=True)
    for image in images:
        shutil.copyfile(source / split / image["file_name"], target / split / image["file_name"])
        image.pop("license", None)
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
    for annotation in annotations:
        annotation["bbox"] = [int(value) for value in annotation["bbox"]]
    about = {"description": "2018 Data Science Bowl nuclei, a selection; CC0 1.0; see README.md beside it"}
    parts = {"info": [about], "categories": content["categories"], "images": images, "annotations": annotations}
    lines = [
        f'"{key}":[\n' + ",\n".join(json.dumps(record, separators=(",", ":")) for record in records) + "\n]"
        for key, records in parts.items()
    ]
    text = "{" + ",\n".join(lines) + "}\n"
    (target / "annotations" / f"instances_{split}.json").write_text(
        text.replace('"info":[\n', '"info":', 1).replace("\n]", "", 1)
    )


if __name__ == "__main__":
    for part in COUNTS:
        bundle(Path(sys.argv[1]), Path(sys.argv[2]), part)
