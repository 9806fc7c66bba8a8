"""Every block of docs/extending.md, run one after the other on images of the bundled nuclei.

`htc.train` is replaced by two steps of a training loop, which receive what the blocks pass to it.
"""

import inspect
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import htc
import htc.demo
from htc.checkpoint.native import save_pretrained
from htc.data.coco import read_coco
from htc.data.formats.layouts import locate_splits
from htc.data.loader import training_loader
from htc.presets import preset

DOC = (Path(__file__).parent.parent / "docs/extending.md").read_text(encoding="utf-8")
NUCLEI = Path(htc.demo.__file__).parent / "nuclei"
BLOCKS = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
STEPS = 2
OWN_TRAIN = htc.train if "train" in htc.__all__ else None  # type: ignore[attr-defined]
CALLS: list[dict[str, Any]] = []


def two_steps(data: Any, **options: Any) -> SimpleNamespace:
    """What a training does with the parts of this page."""
    CALLS.append(options)
    if OWN_TRAIN is not None:
        inspect.signature(OWN_TRAIN).bind(data, **options)
    out = Path(options["out"])
    splits = locate_splits(data=data, val_share=options.get("val_share"), converted=out / "data")
    dataset = read_coco(splits.train_annotations, splits.train_images)
    config = preset("htc_r18_small").replace(
        classes=dataset.classes, category_ids=dataset.category_ids, semantic={"classes": len(dataset.classes) + 1}
    )
    detector = htc.Detector(config, options.get("backbone"))
    objective = htc.TrainingObjective(detector, config)
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4)
    loader = training_loader(dataset, config, 0, 0, 1, transforms=options.get("transforms"))
    for _, batch in zip(range(STEPS), loader, strict=False):
        loss = torch.stack(list(objective(batch).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert bool(loss.isfinite())
    save_pretrained(detector, detector.config, out / "model")
    return SimpleNamespace(folder=out)


def small_coco(folder: Path, counts: Mapping[str, int]) -> None:
    """The first images of each split of the bundled nuclei."""
    (folder / "annotations").mkdir(parents=True)
    for split, count in counts.items():
        content = json.loads((NUCLEI / f"annotations/instances_{split}.json").read_text())
        content["images"] = sorted(content["images"], key=lambda image: image["height"])[:count]
        chosen = {image["id"] for image in content["images"]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in chosen]
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
        (folder / split).mkdir()
        for image in content["images"]:
            shutil.copy(NUCLEI / split / image["file_name"], folder / split)


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The names that all blocks leave behind, and what they printed."""
    folder = tmp_path_factory.mktemp("extending")
    (folder / "photos").mkdir()
    for name in ("street", "empty"):
        noise = np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"photos/{name}.jpg")
    small_coco(folder / "my_data", {"train": 4, "val": 2})
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(htc, "train", two_steps, raising=False)
        patch.setattr("builtins.print", lambda *values: names.setdefault("printed", []).append(values))
        for block in BLOCKS:
            names["before"] = names.get("dataset")
            exec(compile(block, "docs/extending.md", "exec"), names)
            if "from_records" in block:
                names["records"] = names["dataset"]
            elif "from_supervision" in block:
                names["supervised"] = names["dataset"]
        names["root"] = Path.cwd()
    return names


def test_every_block_ran(namespace: dict[str, Any]) -> None:
    assert len(BLOCKS) == 10
    assert namespace["predictions"].boxes.shape[1] == 4


def test_records(namespace: dict[str, Any]) -> None:
    printed = re.search(r"print\(dataset\)  # (.*)", DOC)
    assert printed is not None
    assert repr(namespace["records"]) == printed[1]
    assert namespace["printed"][0] == (namespace["records"],)


def test_supervision(namespace: dict[str, Any]) -> None:
    assert [len(record.instances) for record in namespace["supervised"]] == [
        len(record.instances) for record in namespace["dataset"]
    ]


def test_trainings_got_data_transforms_and_backbone(namespace: dict[str, Any]) -> None:
    assert [set(call) - {"out"} for call in CALLS] == [
        set(),
        {"val_share"},
        {"transforms"},
        {"transforms"},
        {"preset", "backbone"},
    ]
    assert (namespace["root"] / "runs/nuclei/data/annotations/instances_val.json").is_file()
    assert namespace["model"].config.backbone.kind == "custom"


def test_the_module_of_torchvision_fits(namespace: dict[str, Any]) -> None:
    assert htc.Detector(namespace["config"], namespace["resnet"]).backbone.channels == (64, 128, 256, 512)
