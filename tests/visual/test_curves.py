import numpy as np
import pytest
from PIL import Image

from htc.errors import OutputError
from htc.visual.curves import draw_average_precision, draw_losses, running_mean, spread

TERMS = [
    "rpn_class",
    "rpn_box",
    "semantic",
    *(f"stage_{t}_{kind}" for t in (1, 2, 3) for kind in ("class", "box", "mask")),
]


def ink(path):
    """Share of pixels that are not white."""
    pixels = np.asarray(Image.open(path).convert("L"))
    return float((pixels < 250).mean())


@pytest.mark.parametrize("steps", [0, 1, 400])
def test_losses_are_drawn(tmp_path, steps):
    generator = np.random.default_rng(0)
    losses = {name: list(np.exp(-np.arange(steps) / 200) * generator.uniform(0.5, 1.0, steps)) for name in TERMS}
    draw_losses(tmp_path / "new" / "losses.png", range(steps), losses)
    assert Image.open(tmp_path / "new" / "losses.png").size == (1320, 495)
    assert ink(tmp_path / "new" / "losses.png") > (0.04 if steps > 1 else 0.01)


@pytest.mark.parametrize("epochs", [0, 1, 12])
def test_average_precision_is_drawn(tmp_path, epochs):
    rise = 1 - np.exp(-np.arange(epochs) / 4)
    metrics = {
        "mask AP": list(0.4 * rise),
        "mask AP50": list(0.7 * rise),
        "box AP": list(0.39 * rise),
        "undefined": [-1.0] * epochs,
    }
    draw_average_precision(tmp_path / "ap.png", range(1, epochs + 1), metrics)
    assert Image.open(tmp_path / "ap.png").size == (880, 495)
    assert ink(tmp_path / "ap.png") > 0.01


def test_same_curves_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        draw_losses(tmp_path / name, [0, 1], {"mask": [1.0, 0.5]})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/losses\.png"):
        draw_losses(tmp_path / "file" / "losses.png", [], {})


def test_running_mean_looks_back_only():
    assert running_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2).tolist() == [1.0, 2.0, 4.0, 6.0]
    assert running_mean(np.array([]), 3).tolist() == []


def test_labels_keep_their_distance():
    assert spread([0.1, 0.11, 0.5], 0.05) == pytest.approx([0.1, 0.15, 0.5])
