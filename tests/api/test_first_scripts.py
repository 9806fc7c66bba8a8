"""Scripts that somebody wrote who had read nothing but README and docs/guides/python.md and extending.md, as they were
written; only their folders and the size of the images differ.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import htc
from htc.data.loader import training_loader
from htc.presets import preset
from training.discs import write_split

pytestmark = pytest.mark.slow
DATA = "work/shapes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    data = folder / DATA
    (data / "annotations").mkdir(parents=True)
    for name, images, seed in (("train", 4, 0), ("val", 3, 1)):
        write_split(data, name, images, seed).rename(data / "annotations" / f"instances_{name}.json")
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def test_train_evaluate_and_compare_two_models() -> None:
    print(htc.doctor(DATA))
    models = []
    for seed in (0, 1):
        result = htc.train(
            DATA,
            preset="htc_r18_small",
            epochs=1,
            batch_size=2,
            seed=seed,
            device="cpu",
            input={"short_edge": 64, "long_edge": 96},
            out=f"work/runs/seed{seed}",
        )
        models.append(result.model)
        if seed == 0:
            metrics = htc.evaluate(result.model, DATA)
            print(metrics, metrics.mask.ap, metrics.per_class["mask AP"])
    a = htc.evaluate(models[0], DATA, save_results="work/a.json")
    b = htc.evaluate(models[1], DATA, against="work/a.json")
    assert [row["kind"] for row in b.against] == ["box", "mask"]
    better = models[0] if a.mask.ap >= b.mask.ap else models[1]
    again = htc.load(better.save("work/best"))
    image = f"{DATA}/val/0.png"
    assert len(again.predict(image, score_threshold=0.0)) > 0
    assert again.predict(image, score_threshold=0.0) == better.predict(image, score_threshold=0.0)


def test_an_ensemble_predicts_a_folder_and_its_results_are_evaluated() -> None:
    folder = Path("work/photos")
    shutil.copytree(f"{DATA}/val", folder)
    (folder / "broken.png").write_bytes(b"this is no png")
    (folder / "notes.txt").write_text("hello")
    Path("work/drawings").mkdir()
    both = htc.ensemble([htc.load("work/runs/seed0", device="cpu"), "work/runs/seed1"], views="1:flip", device="cpu")
    content = json.loads(Path(DATA, "annotations/instances_val.json").read_text())
    ids = {image["file_name"]: image["id"] for image in content["images"]}
    results, paths = [], sorted(folder.iterdir())
    for detections in both.predict_many(paths, batch_size=2, workers=2, score_threshold=0.0, on_error="skip"):
        path = paths[detections.index]
        detections[:3].save(Path("work/drawings") / path.name)
        results += detections.to_coco(image_id=ids[path.name])
    Path("work/results.json").write_text(json.dumps(results))
    most = both.config.inference.max_detections
    metrics = htc.evaluate(results="work/results.json", data=DATA, max_detections=most)
    ensemble = htc.evaluate(both, DATA)
    assert metrics.box.ap50 > 0
    assert metrics.box.ap50 == pytest.approx(ensemble.box.ap50, rel=1e-6)
    assert metrics.mask.ar == pytest.approx(ensemble.mask.ar, rel=1e-6)
    assert len(list(Path("work/drawings").iterdir())) == 3


def record(number: int) -> dict[str, object]:
    image = Image.new("RGB", (96, 96), (40, 40, 40))
    draw = ImageDraw.Draw(image)
    x = 20 + 5 * number
    draw.ellipse((x, 10, x + 30, 40), fill=(220, 60, 60))
    draw.rectangle((x, 50, x + 30, 80), fill=(60, 90, 220))
    rows, columns = np.mgrid[:96, :96]
    disc = (columns - x - 15) ** 2 + (rows - 25) ** 2 <= 225
    square = [[x, 50, x + 30, 50, x + 30, 80, x, 80]]
    return {"image": image, "labels": ["disc", "square"], "masks": [disc, square]}


def test_a_training_loop_of_ones_own() -> None:
    dataset = htc.Dataset.from_records([record(i) for i in range(4)])
    config = preset("htc_r18_small").replace(
        classes=dataset.classes,
        category_ids=dataset.category_ids,
        semantic={"classes": len(dataset.classes) + 1},
        input={"short_edge": 64, "long_edge": 96},
    )
    detector = htc.Detector(config)
    objective = htc.TrainingObjective(detector, config)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4)
    for batch in training_loader(dataset, config, seed=0, epoch=0, batch_size=2):
        total = sum(objective(batch).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    model = htc.Predictor(detector, config)
    assert len(model.predict(record(0)["image"], score_threshold=0.0, max_detections=5)) <= 5
    model.save("work/own")
    assert htc.load("work/own").classes == ("disc", "square")
