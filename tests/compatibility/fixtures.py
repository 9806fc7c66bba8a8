"""What the compatibility tests, the writer of their fixtures and `scripts/same_numbers` share."""

import csv
import tarfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FIXTURES, DATA = HERE / "archives", HERE / "data"
IMAGES = tuple(DATA / "val" / f"{number}.png" for number in (0, 1))


def unpacked(name: str, folder: Path) -> Path:
    """The archive's content: `model/`, `run/` and of some `finished/`."""
    with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


def resume_words(run: Path, *, validated: bool) -> list[str]:
    """Arguments of `htc train` that resume the run."""
    parts = ("train", "val") if validated else ("train",)
    data = [
        word
        for part in parts
        for word in (f"--{part}-annotations", DATA / f"{part}.json", f"--{part}-images", DATA / part)
    ]
    return [str(word) for word in (*data, "--out", run, "--device", "cpu", "--seed", 3, "--resume")]


def step_rows(run: Path) -> dict[str, Any]:
    """The losses of every step of a run, and the images of every step."""
    return {"losses": rows(run / "losses.csv"), "images": rows(run / "pictures.csv")}


def rows(path: Path) -> list[list[str]]:
    """A CSV file, its header first."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def predictions(folder: Path) -> list[list[dict[str, Any]]]:
    """What the model in a folder predicts on each of `IMAGES`: COCO results."""
    import htc

    predictor = htc.load(str(folder), device="cpu", precision="fp32")
    return [
        predictor.predict(image, score_threshold=0.0).to_coco(image_id=number) for number, image in enumerate(IMAGES)
    ]
