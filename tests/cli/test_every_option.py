"""Every module that the documentation names learns and predicts from the command line, by the flags that it gives."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import Result
from cli.test_train import FLAGS

PAGE = Path(__file__).parents[2] / "docs" / "modules.md"
DOCUMENTED = [flags for flags in re.findall(r"^\|[^|]*\|[^|]*\| `(--[^`]*)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE) if "--preset" not in flags]
FURTHER = [
    "--rpn.kind guided_rpn --rpn.anchor_scale 4",
    "--neck.norm sync --semantic.norm sync --cascade.mask_norm sync --cascade.box_norm sync --cascade.box_convs 1 --cascade.box_fcs 1",
    "--training.augmentation.short_edges 32,112 --training.augmentation.long_edge 128",
    "--training.augmentation.copy_paste.probability 1",
    "--backbone.kind timm --backbone.name resnet18",
    "--backbone.kind timm --backbone.name convnext_atto --backbone.output_norm layer",
    "--backbone.kind vit --backbone.name vit_tiny_patch16_224",
]


def test_the_page_has_its_options() -> None:
    assert len(DOCUMENTED) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("flags", [*DOCUMENTED, *FURTHER])
def test_an_option_learns_and_predicts(htc: Callable[..., Result], data: Path, flags: str) -> None:
    small = dict(zip(FLAGS[::2], FLAGS[1::2], strict=True))
    given = flags.split()
    for flag in given[::2]:
        small.pop(flag.replace("_", "-"), None)
    if "--neck.kind" in given:  # another kind begins with its own defaults
        small["--neck.channels"] = 32
    if given[-1] == "fusion":  # it branches off before the last convolution
        small["--cascade.mask-convs"] = 2
    rest = [str(word) for pair in small.items() for word in pair]
    trained = htc("train", "--data", data, "--preset", "htc_r18_small", *rest, *given, "--batch-size", "2", "--out", "run")
    assert trained.code == 0, trained.err
    found = htc("predict", data / "val" / "picture0.png", "--model", "run", "--score-threshold", "0", "--json", "-", "--no-draw", "--device", "cpu")
    assert found.code == 0, found.err
    assert {"bbox", "segmentation", "score"} <= set(json.loads(found.out)[0])
