"""A model as an OpenVINO file, converted from the ONNX file of the fixture."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import deform_conv2d

import htc
from exporting.conftest import Exported
from exporting.test_reader import assert_same, read
from htc.checkpoint.exported import exported_kind, read_description
from htc.errors import CheckpointError, ConfigError
from htc.exporting.certificate import compare_detections
from htc.exporting.openvino_file import sampled_deform_conv2d
from htc.inference.load import load


@pytest.fixture(scope="module")
def file(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model exported to OpenVINO, with the translation of the fixture."""
    target = tmp_path_factory.mktemp("openvino") / "model.xml"
    with exported.as_translation():
        assert htc.export(exported.model, target, progress=False).passed
    return target


def test_the_file_its_weights_and_the_certificate_are_written(exported: Exported, file: Path) -> None:
    assert {path.name for path in file.parent.iterdir()} == {"model.xml", "model.bin", "model.xml.json"}
    certificate = json.loads((file.parent / "model.xml.json").read_text())
    assert certificate["runtime"].startswith("openvino ")
    assert certificate["totals"]["matched"] == certificate["totals"]["expected"] > 20
    assert certificate["totals"]["scores"] < 1e-4
    assert certificate["totals"]["boxes"] < 1e-2
    assert exported_kind(file) == "openvino"
    assert read_description(file, "openvino") == read_description(exported.onnx, "onnx")


@pytest.mark.parametrize("shape", [(90, 140), (300, 31), (1, 1)])
def test_a_file_predicts_as_its_model(exported: Exported, file: Path, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(5).integers(0, 256, (*shape, 3), np.uint8)
    model, other = load(exported.model, device="cpu"), load(file, device="cpu")
    for options in ({"score_threshold": 0.0}, {"score_threshold": 0.3, "classes": ["dog", "bird"]}):
        compared = compare_detections(model.predict(image, **options), other.predict(image, **options), 1.0)
        assert compared["differing"] == 0
        assert compared["matched"] == compared["expected"]
    assert [len(one) for one in other.predict_many([image, image], batch_size=2, score_threshold=0.0)] == [10, 10]


def test_another_device_and_a_damaged_file_are_refused(file: Path, tmp_path: Path) -> None:
    from htc.inference.runtimes import OpenVinoSession

    with pytest.raises(ConfigError, match="runs on the CPU"):
        OpenVinoSession(file, torch.device("cuda"))
    (tmp_path / "model.xml").write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="OpenVINO cannot open it"):
        load(tmp_path / "model.xml")  # the weights are missing
    (tmp_path / "model.xml").write_bytes(file.read_bytes()[:10_000])
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        load(tmp_path / "model.xml")


@pytest.mark.parametrize(
    ("offset_groups", "groups", "stride", "dilation", "use_mask"),
    [(1, 1, 1, 1, True), (4, 1, 1, 1, False), (2, 2, 2, 2, True)],
)
def test_a_deformable_convolution_by_samples(
    offset_groups: int, groups: int, stride: int, dilation: int, use_mask: bool
) -> None:
    numbers = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=numbers)

    height, width = ((side + 2 - 2 * dilation - 1) // stride + 1 for side in (9, 11))
    x, weight, bias = random(2, 8, 9, 11), random(6, 8 // groups, 3, 3), random(6)
    offset, mask = (random(2, count * offset_groups * 9, height, width) for count in (2, 1))
    expected = deform_conv2d(x, 3 * offset, weight, bias, stride, 1, dilation, mask if use_mask else None)
    found = sampled_deform_conv2d(
        x, weight, 3 * offset, mask, bias, stride, stride, 1, 1, dilation, dilation, groups, offset_groups, use_mask
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_reader_gives_what_the_model_predicts(exported: Exported, file: Path, tmp_path: Path) -> None:
    image = min((Path(htc.__file__).parent / "demo" / "nuclei" / "val").iterdir())
    found, _ = read(file, image, tmp_path / "found.npz", "--score-threshold", "0.2")
    assert_same(found, load(exported.model, device="cpu").predict(image, score_threshold=0.2))
