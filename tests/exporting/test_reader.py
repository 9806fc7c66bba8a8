"""examples/read_exported.py in a process in which neither torch nor this library can be imported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import htc
from exporting.conftest import Exported
from htc.inference.load import load

READER = Path(__file__).parents[2] / "examples" / "read_exported.py"
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "htc", "onnx", "onnxscript")))  # importing them fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def read(model: Path, image: Path, out: Path, *words: str) -> tuple[dict[str, np.ndarray], str]:
    """The arrays that the reader writes, and what it prints."""
    command = [sys.executable, "-c", ALONE, str(READER), str(model), str(image), "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as content:
        return dict(content), done.stdout


def assert_same(found: dict[str, np.ndarray], expected: htc.Detections) -> None:
    """Equal up to the tolerance of a certificate; masks at all but a few pixels of their outlines."""
    assert found["labels"].tolist() == expected.labels.tolist()
    np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected.boxes, atol=0.02)
    masks = expected.masks.bitmaps()
    assert found["masks"].shape == masks.shape
    assert masks.any()
    assert (found["masks"] != masks).mean() < 1e-4


@pytest.mark.parametrize("shape", [(90, 140), (260, 347)])
def test_the_reader_gives_what_the_model_predicts(exported: Exported, tmp_path: Path, shape: tuple[int, int]) -> None:
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (*shape, 3), np.uint8)).save(image)
    expected = load(exported.model, device="cpu").predict(image, score_threshold=0.2)
    assert len(expected) > 2
    found, printed = read(exported.onnx, image, tmp_path / "found.npz", "--score-threshold", "0.2")
    assert_same(found, expected)
    assert len(printed.splitlines()) == len(expected)
    assert printed.startswith(f"{expected.class_names[0]} {expected.scores[0]:.2f} at ")


def test_an_image_without_detections(exported: Exported, tmp_path: Path) -> None:
    image = min((Path(htc.__file__).parent / "demo" / "nuclei" / "val").iterdir())
    found, printed = read(exported.onnx, image, tmp_path / "found.npz", "--score-threshold", "1")
    assert found["boxes"].shape == (0, 4)
    assert len(found["masks"]) == 0
    assert printed == ""


def test_the_metadata_are_enough(exported: Exported) -> None:
    import onnxruntime

    facts = onnxruntime.InferenceSession(exported.onnx).get_modelmeta().custom_metadata_map
    assert {name: json.loads(facts[name]) for name in ("size", "raw_images")} == {"size": None, "raw_images": False}
