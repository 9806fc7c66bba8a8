"""What a file of detectron2 says of its colors, input and anchors is read, what it does not say is told, assumed
aloud, or asked for.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from checkpoint.formats.test_detectron2_and_paddle import STRIDE, as_detectron2, saved, tiny
from checkpoint.historical import random_state
from htc.checkpoint.facts import UserFacts
from htc.checkpoint.load import load_model
from htc.checkpoint.native import save_pretrained
from htc.config import RPN
from htc.errors import CheckpointError, ConfigError

RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BGR_MEAN, BGR_STD = RGB_MEAN[::-1], RGB_STD[::-1]


def buffer(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]


def reads_as_stored(state: dict[str, Tensor]) -> bool:
    """Whether the stem of `state` is the file's, not one that was turned round."""
    return torch.equal(state["backbone.conv1.weight"], random_state(tiny(1))["backbone.conv1.weight"].flip(1))


@pytest.mark.parametrize(
    ("stride", "mean", "std", "told", "turned", "expected"),
    [
        ("1x1", None, None, None, True, (RGB_MEAN, (1.0, 1.0, 1.0))),
        ("1x1", None, None, "rgb", False, (RGB_MEAN, (1.0, 1.0, 1.0))),
        ("1x1", RGB_MEAN, None, None, False, (RGB_MEAN, (1.0, 1.0, 1.0))),
        ("1x1", (90.0, 90.0, 90.0), (4.0, 5.0, 6.0), None, True, ((90.0, 90.0, 90.0), (6.0, 5.0, 4.0))),
        ("1x1", (90.0, 95.0, 100.0), (4.0, 5.0, 6.0), "bgr", True, ((100.0, 95.0, 90.0), (6.0, 5.0, 4.0))),
        ("3x3", None, None, "bgr", True, (RGB_MEAN, RGB_STD)),
        ("3x3", None, None, "rgb", False, (RGB_MEAN, RGB_STD)),
        ("3x3", BGR_MEAN, BGR_STD, None, True, (RGB_MEAN, RGB_STD)),
        ("3x3", BGR_MEAN, (1.0, 1.0, 1.0), None, True, (RGB_MEAN, (1.0, 1.0, 1.0))),
        ("3x3", RGB_MEAN, RGB_STD, None, False, (RGB_MEAN, RGB_STD)),
        ("3x3", (90.0, 90.0, 90.0), None, "rgb", False, ((90.0, 90.0, 90.0), RGB_STD)),
    ],
)
def test_colors_and_input(
    tmp_path: Path,
    stride: str,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    told: Any,
    turned: bool,
    expected: Any,
) -> None:
    """By the file's own numbers, then as told, then by the style of the ResNet; always given for red, green, blue."""
    given = {name: buffer(values) for name, values in (("pixel_mean", mean), ("pixel_std", std)) if values is not None}
    path = saved(tmp_path / "model.pth", as_detectron2(random_state(tiny(1)), 1) | given)
    loaded = load_model(path, overrides={"backbone": {"stride_in": stride}}, facts=UserFacts(told))
    assert (loaded.config.input.mean, loaded.config.input.std) == expected
    assert reads_as_stored(loaded.state_dict) is not turned
    (note,) = loaded.report.notes
    assert ("input.mean" in note, "input.std" in note) == (mean is None, std is None)
    assert ("--input.std 1,1,1" in note) is (stride == "3x3" and std is None)


@pytest.mark.parametrize(
    ("mean", "std", "bgr"),
    [(BGR_MEAN, BGR_STD, True), (RGB_MEAN, RGB_STD, False), ((90.0, 95.0, 100.0), (4.0, 5.0, 6.0), True)],
)
def test_the_stem_sees_the_image_as_there(
    tmp_path: Path, mean: tuple[float, ...], std: tuple[float, ...], bgr: bool
) -> None:
    """Their stem on their input, in their order of colors, equals ours on ours."""
    theirs = as_detectron2(random_state(tiny(1)), 1)
    path = saved(tmp_path / "model.pth", theirs | {"pixel_mean": buffer(mean), "pixel_std": buffer(std)})
    loaded = load_model(path, overrides={"backbone": {"stride_in": "3x3"}})
    image = torch.rand(1, 3, 16, 16) * 255
    expected = F.conv2d(
        ((image.flip(1) if bgr else image) - buffer(mean)) / buffer(std),
        theirs["backbone.bottom_up.stem.conv1.weight"],
    )
    settings = loaded.config.input
    found = F.conv2d((image - buffer(settings.mean)) / buffer(settings.std), loaded.state_dict["backbone.conv1.weight"])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mean", [None, (90.0, 90.0, 90.0)])
def test_colors_that_nothing_tells_are_asked_for(tmp_path: Path, mean: tuple[float, ...] | None) -> None:
    given = {} if mean is None else {"pixel_mean": buffer(mean)}
    path = saved(tmp_path / "model.pth", as_detectron2(random_state(tiny(1)), 1) | given)
    with pytest.raises(
        CheckpointError, match=r"(?s)bgr in .*rgb if .*htc convert .*--backbone\.stride-in 3x3 --colors bgr\|rgb"
    ):
        load_model(path, overrides={"backbone": {"stride_in": "3x3"}})


@pytest.mark.parametrize(("mean", "told"), [(BGR_MEAN, "rgb"), (RGB_MEAN, "bgr")])
@pytest.mark.parametrize("stride", ["1x1", "3x3"])
def test_colors_told_against_the_file_are_refused(
    tmp_path: Path, stride: str, mean: tuple[float, ...], told: Any
) -> None:
    path = saved(tmp_path / "model.pth", as_detectron2(random_state(tiny(1)), 1) | {"pixel_mean": buffer(mean)})
    with pytest.raises(CheckpointError, match="remove --colors"):
        load_model(path, overrides={"backbone": {"stride_in": stride}}, facts=UserFacts(told))


def test_what_a_file_has_no_use_for_may_not_be_told(tmp_path: Path) -> None:
    state = random_state(tiny(1))
    path = saved(tmp_path / "model.pth", as_detectron2(state, 1))
    with pytest.raises(CheckpointError, match="--norm-epsilon has no effect"):
        load_model(path, overrides=STRIDE, facts=UserFacts(norm_epsilon=0))
    first = load_model(path, overrides=STRIDE)
    folder = save_pretrained(first.state_dict, first.config, tmp_path / "native")
    for ours in (folder, folder / "model.safetensors"):
        with pytest.raises(CheckpointError, match="--colors has no effect"):
            load_model(ours, facts=UserFacts("bgr"))
    with pytest.raises(ConfigError, match=r"epsilon is 0\.5"):
        UserFacts(norm_epsilon=0.5)


def cells(scale: float = 8.0, ratios: tuple[float, ...] = (0.5, 1.0, 2.0), levels: int = 5) -> dict[str, Tensor]:
    """Cells of the sides scale * 4, scale * 8, ... under detectron2's names."""
    return {
        f"proposal_generator.anchor_generator.cell_anchors.{level}": _cells(scale * 4 * 2**level, ratios)
        for level in range(levels)
    }


def _cells(side: float, ratios: tuple[float, ...]) -> Tensor:
    """Width and height of area side^2 and ratio h / w, around the origin."""
    sizes = [(side / ratio**0.5, side * ratio**0.5) for ratio in ratios]
    return torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in sizes])


@pytest.mark.parametrize(("scale", "ratios"), [(8.0, (0.5, 1.0, 2.0)), (4.0, (1.0, 2.0, 0.5)), (5.5, (0.25, 1.0, 3.0))])
def test_anchors_are_read_from_the_cells(tmp_path: Path, scale: float, ratios: tuple[float, ...]) -> None:
    path = saved(
        tmp_path / "model.pth",
        as_detectron2(random_state(tiny(1)), 1) | cells(scale, ratios) | {"pixel_mean": buffer(BGR_MEAN)},
    )
    loaded = load_model(path, overrides=STRIDE)
    assert isinstance(loaded.config.rpn, RPN)
    assert (loaded.config.rpn.anchor_scale, loaded.config.rpn.anchor_ratios) == (scale, ratios)
    assert len(loaded.report.dropped) == 6
    assert "anchors" not in loaded.report.notes[0]


@pytest.mark.parametrize(
    "wrong",
    [
        cells(levels=4),
        cells() | {"proposal_generator.anchor_generator.cell_anchors.4": _cells(300.0, (0.5, 1.0, 2.0))},
        cells() | {"proposal_generator.anchor_generator.cell_anchors.2": _cells(128.0, (0.5, 1.0))},
        cells() | {"proposal_generator.anchor_generator.cell_anchors.5": _cells(1024.0, (0.5, 1.0, 2.0))},
        {name: tensor * torch.tensor([[1.0], [1.0], [1.5]]) for name, tensor in cells().items()},
        {name: tensor + 4 for name, tensor in cells().items()},
        {name: tensor[:0] for name, tensor in cells().items()},
        {name: tensor.flip(1) for name, tensor in cells().items()},
    ],
    ids=[
        "four levels",
        "another side",
        "fewer ratios",
        "six levels",
        "two sides",
        "beside the center",
        "none",
        "negative",
    ],
)
def test_anchors_that_ours_cannot_express_are_refused(tmp_path: Path, wrong: dict[str, Tensor]) -> None:
    path = saved(tmp_path / "model.pth", as_detectron2(random_state(tiny(1)), 1) | wrong)
    with pytest.raises(CheckpointError, match="its anchors are not"):
        load_model(path, overrides=STRIDE)


def test_what_was_assumed_is_said(tmp_path: Path) -> None:
    """Anchors of detectron2's default are compared with a preset's like any other fact."""
    path = saved(tmp_path / "model.pth", as_detectron2(random_state(tiny(1)), 1))
    (note,) = load_model(path, overrides=STRIDE).report.notes
    for part in (
        "cascade.delta_stds",
        "cascade.pooling",
        "32 to 512",
        "input.mean (123.675, 116.28, 103.53)",
        "input.std (1.0, 1.0, 1.0)",
    ):
        assert part in note, part
