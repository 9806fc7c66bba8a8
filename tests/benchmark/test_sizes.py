"""The stored table of sizes against what is counted now, and the count against a definition of its own."""

import json
from importlib.resources import files

import pytest

from htc.benchmark.sizes import deformable_flops, size_of
from htc.checkpoint.zoo import RELEASED, catalogue
from htc.presets import PRESETS, preset
from htc.presets.published import PUBLISHED

STORED = json.loads(files("htc.presets").joinpath("sizes.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["htc_r18_small", "htc_r50_dcn_table7"])
def test_the_table_holds_what_is_counted(name: str) -> None:
    size = size_of(preset(name))
    assert STORED[name] == {"parameters": size.parameters, "gflop": size.gflop}


def test_every_preset_is_in_the_table() -> None:
    """After a new preset: python -m htc.benchmark.sizes > src/htc/presets/sizes.json."""
    assert set(STORED) == set(PRESETS)


def test_a_mask_rcnn_of_torchvision_s_size() -> None:
    """R-50 FPN Mask R-CNN: 44.4 million parameters in torchvision, 91 classes; ours has 80 and the same layers (no
    norm in the RPN).
    """
    classes, wide = 91 - 81, 1024
    fewer = classes * (wide + 1) + (classes * 4 + 4) * (wide + 1) + (classes + 1) * 257
    with_norms = 53_120  # torchvision counts frozen norms as buffers, ours as parameters
    assert STORED["mask_rcnn_r50_fpn_1x_coco"]["parameters"] == pytest.approx(
        (44_401_393 - fewer + with_norms) / 1e6, abs=0.02
    )


def test_deformable_convolution_counts_as_a_plain_one() -> None:
    plain = 2 * (20 * 30) * 16 * (8 // 2) * 9
    assert deformable_flops((1, 8, 20, 30), (16, 4, 3, 3), None, out_shape=(1, 16, 20, 30)) == plain


def test_the_catalogue_names_the_source_of_every_ap() -> None:
    entries = {entry.name: entry for entry in catalogue()}
    assert list(entries) == list(PRESETS)
    assert set(PUBLISHED) <= set(entries)
    for name, entry in entries.items():
        assert (entry.source is None) == (entry.mask_ap is None) == (name not in RELEASED and name not in PUBLISHED)
    assert entries["htc_senet154_table7"].mask_ap == 44.3
    assert entries["htc_senet154_table7"].images == "test-dev"
