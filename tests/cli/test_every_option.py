"""Every module that the documentation names learns and predicts from the command line, by the flags that it gives,
on images of nuclei.
"""

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from cli.conftest import Result

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "variants.md"
DOCUMENTED = [
    flags
    for flags in re.findall(r"^\|[^|]*\|[^|]*\| `(--[^`]*)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    if " " in flags and "deformable v1" not in flags  # deformable convolution needs a deeper network: see FURTHER
]
FURTHER = [
    "--rpn.kind guided_rpn --rpn.anchor_scale 4",
    "--neck.norm sync --semantic.norm sync --cascade.mask_norm sync --cascade.box_norm sync --cascade.box_convs 1 "
    "--cascade.box_fcs 1",
    "--training.augmentation.short_edges 64,224 --training.augmentation.long_edge 256",
    "--training.augmentation.copy_paste.probability 1",
    "--backbone.depth 50 --backbone.norm batch --backbone.deformable v1 --backbone.deformable_stages 3,4,5",
    "--backbone.kind fishnet --backbone.depth 99 --backbone.norm batch",
    "--backbone.kind timm --backbone.name resnet18",
    "--backbone.kind timm --backbone.name convnext_atto --backbone.output_norm layer",
    "--backbone.kind timm --backbone.name swin_tiny_patch4_window7_224 --backbone.output_norm layer",
    "--backbone.kind vit --backbone.name vit_tiny_patch16_224",
]
SMALL = {
    **{
        "neck.channels": "32",
        "semantic.channels": "32",
        "semantic.convs": "1",
        "cascade.box_channels": "32",
        "cascade.mask_channels": "16",
    },
    **{
        "cascade.mask_convs": "1",
        "cascade.samples": "16",
        "rpn.samples": "32",
        "input.short_edge": "128",
        "input.long_edge": "160",
    },
    **{"training.augmentation.crop": "none", "epochs": "1", "batch_size": "2", "device": "cpu"},
}


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the bundled training images, and one validation image, with their annotations."""
    bundled, folder = Path(str(files("htc.demo"))) / "nuclei", tmp_path_factory.mktemp("nuclei")
    (folder / "annotations").mkdir()
    for split, count in (("train", 2), ("val", 1)):
        content = json.loads((bundled / "annotations" / f"instances_{split}.json").read_text())
        content["images"] = sorted(content["images"], key=lambda image: image["width"] * image["height"])[:count]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
        assert content["annotations"]
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        (folder / split).mkdir()
        for image in content["images"]:
            (folder / split / image["file_name"]).write_bytes((bundled / split / image["file_name"]).read_bytes())
    return folder


def test_the_page_has_its_options() -> None:
    assert len(DOCUMENTED) >= 11


@pytest.mark.slow
@pytest.mark.parametrize("flags", [*DOCUMENTED, *FURTHER])
def test_an_option_learns_and_predicts(htc: Callable[..., Result], nuclei: Path, flags: str) -> None:
    given = flags.split()
    small = {f"--{name}": value for name, value in SMALL.items() if f"--{name}" not in given}
    if given[-1] == "fusion":  # it branches off before the last convolution
        small["--cascade.mask_convs"] = "2"
    rest = [word for pair in small.items() for word in pair]
    trained = htc("train", "--data", nuclei, "--preset", "htc_r18_small", *given, *rest, "--out", "run")
    assert trained.code == 0, trained.err
    (image,) = (nuclei / "val").iterdir()
    found = htc(
        "predict", image, "--model", "run", "--score-threshold", "0", "--json", "-", "--no-draw", "--device", "cpu"
    )
    assert found.code == 0, found.err
    assert {"bbox", "segmentation", "score"} <= set(json.loads(found.out)[0])
