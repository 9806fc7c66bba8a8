"""From a saved model to detections, through the real network."""

from pathlib import Path

import numpy as np
import pytest
import torch

import htc
from htc.checkpoint.native import save_pretrained
from htc.errors import CheckpointError, ConfigError
from htc.inference.device import choose_device
from htc.model.detector import Detector
from htc.presets import preset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = preset("htc_r18_small")
    return save_pretrained(Detector(config), config, tmp_path_factory.mktemp("model"))


def test_a_saved_model_predicts(folder: Path) -> None:
    model = htc.load(
        folder, device="cpu", inference={"max_detections": 20, "score_threshold": 0.0}, rpn={"proposals": 50}
    )
    assert model.config.inference.max_detections == 20
    image = np.random.default_rng(0).integers(0, 256, (70, 110, 3), dtype=np.uint8)
    found = model.predict(image, score_threshold=0.0, short_edge=64, long_edge=96)
    assert 0 < len(found) <= 20
    assert set(found.class_names) == {"object"}
    assert (np.diff(found.scores) <= 0).all()
    assert found.boxes.min() >= 0
    assert (found.boxes.max(0) <= [110, 70, 110, 70]).all()
    assert all(one["size"] == [70, 110] for one in found.masks.rle())
    again = htc.load(
        folder, device="cpu", inference={"max_detections": 20, "score_threshold": 0.0}, rpn={"proposals": 50}
    )
    np.testing.assert_array_equal(
        again.predict(image, score_threshold=0.0, short_edge=64, long_edge=96).boxes, found.boxes
    )


def test_unknown_settings_and_models(folder: Path) -> None:
    with pytest.raises(ConfigError, match="max_detection"):
        htc.load(folder, device="cpu", inference={"max_detection": 20})
    with pytest.raises(ConfigError, match="htc_r50"):
        htc.load("htc_r50_fpn_1x_coc", device="cpu")
    with pytest.raises(CheckpointError, match=r"nowhere\.pth"):
        htc.load("nowhere.pth", device="cpu")


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match="auto, cpu, cuda, cuda:N, N "):
        choose_device("gpu")
    with pytest.raises(ConfigError, match="is not available"):
        choose_device("cuda:77")


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_the_device_may_be_a_name_or_an_object(device: str | torch.device) -> None:
    assert choose_device(device) == torch.device("cpu")


@pytest.mark.parametrize("device", [1, "1", "cuda:1", torch.device("cuda", 1)])
def test_a_device_keeps_its_index(device: str | int | torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(device) == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="'cuda:1' is not available"):
        choose_device(device)
