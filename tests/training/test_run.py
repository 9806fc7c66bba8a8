"""A whole training of a few steps on generated images, the real code path from files to the model folder."""

import json
from dataclasses import replace

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from htc.config import AdamW, RecursiveFPN, ResNet, ViT
from htc.data.coco import Splits, read_coco
from htc.errors import CheckpointError, DataError, OutputError, TrainingError
from htc.inference.load import load
from htc.settings.layers import from_file, overlay
from htc.training.events import Message
from htc.training.history import read_history, read_losses
from htc.training.run import Options, build_module, run_training
from training.discs import write_split
from training.tiny import tiny


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return Splits(
        write_split(folder, "train", 5, 0), folder / "train", write_split(folder, "val", 3, 1), folder / "val"
    )


@pytest.fixture(scope="module")
def trained(splits, tmp_path_factory):
    """One training of two epochs, three steps each, the last with one image."""
    return run_training(tiny(average_decay=0.9), splits, tmp_path_factory.mktemp("run") / "new", Options(device="cpu"))


def test_a_training_leaves_everything(trained):
    left = {str(path.relative_to(trained.folder)) for path in trained.folder.rglob("*") if path.is_file()}
    assert left == {
        "model/config.json",
        "model/model.safetensors",
        "metrics.json",
        "config.yaml",
        "losses.csv",
        "pictures.csv",
        "history.json",
        "validation.csv",
        "curves/losses.png",
        "curves/average_precision.png",
        "checkpoints/last.ckpt",
        "checkpoints/best/config.json",
        "checkpoints/best/model.safetensors",
        *(f"pictures/{kind}/{number}.png" for kind in ("best", "last") for number in range(3)),
    }
    config = overlay(tiny(), from_file(trained.folder / "config.yaml"))
    assert config == trained.config
    steps, losses = read_losses(trained.folder / "losses.csv")
    assert steps == list(range(6))
    assert trained.steps == 6
    kinds = {f"stage{t}.{part}" for t in (1, 2, 3) for part in ("class", "box", "mask")}
    assert set(losses) == {"rpn.class", "rpn.box", "semantic", *kinds}
    metrics = json.loads((trained.folder / "metrics.json").read_text())
    best = metrics.pop("model")
    assert metrics == trained.metrics.to_dict()
    history = read_history(trained.folder)
    assert best == {"epoch": best["epoch"], "step": 3 * best["epoch"], "is": "the best"}
    assert history[best["epoch"] - 1]["segm"] == metrics["segm"]
    assert metrics["segm"]["AP"] == max(entry["segm"]["AP"] for entry in history)
    assert metrics["per_class"].keys() == {"disc", "square"}
    assert "AR@20" in metrics["segm"]
    assert [entry["step"] for entry in read_history(trained.folder)] == [3, 6]


def test_the_model_takes_the_data_s_classes(trained, splits):
    predictor = load(trained.model_folder, device="cpu")
    assert predictor.config.classes == ("disc", "square")
    assert predictor.config.category_ids == (4, 9)
    assert predictor.config.semantic.classes == 3
    found = predictor.predict(splits.val_images / "0.png", score_threshold=0.05)
    assert set(found.class_names) <= {"disc", "square"}


def test_same_seed_same_numbers_other_seed_others(trained, splits, tmp_path):
    again = run_training(tiny(average_decay=0.9), splits, tmp_path / "again", Options(device="cpu"))
    for name in ("losses.csv", "history.json", "model/config.json"):
        assert (again.folder / name).read_bytes() == (trained.folder / name).read_bytes(), name
    other = run_training(
        tiny(epochs=1), replace(splits, val_annotations=None), tmp_path / "other", Options(device="cpu", seed=1)
    )
    assert other.metrics is None
    assert (
        read_losses(other.folder / "losses.csv")[1]["rpn.class"]
        != read_losses(trained.folder / "losses.csv")[1]["rpn.class"][:3]
    )


def test_resume_goes_on_as_if_nothing_had_happened(trained, splits, tmp_path):
    options = Options(device="cpu")
    run_training(tiny(average_decay=0.9, epochs=1), splits, tmp_path / "run", options)
    with pytest.raises(OutputError, match=r"already contains a training.*--resume"):
        run_training(tiny(), splits, tmp_path / "run", options)
    resumed = run_training(tiny(average_decay=0.9), splits, tmp_path / "run", replace(options, resume=True))
    for name in ("losses.csv", "history.json"):
        assert (resumed.folder / name).read_bytes() == (trained.folder / name).read_bytes(), name
    with pytest.raises(OutputError, match="no training to resume"):
        run_training(tiny(), splits, tmp_path / "nothing", replace(options, resume=True))


def test_a_training_set_without_instances_is_refused(tmp_path):
    annotations = write_split(tmp_path, "train", 2, 0, objects=0)
    with pytest.raises(DataError, match=r"train\.json: none of its 2 images has an annotation"):
        run_training(
            tiny(epochs=1),
            Splits(annotations, tmp_path / "train", annotations, tmp_path / "train"),
            tmp_path / "run",
            Options(device="cpu"),
        )
    assert not (tmp_path / "run" / "model").exists()


def test_a_loss_that_is_not_finite_stops_the_training(splits, tmp_path):
    with pytest.raises(TrainingError, match=r"not finite at step [0-5]: .*images \d"):
        run_training(
            tiny(optimizer=AdamW(lr=1e18), warmup_steps=0, clip_gradients=None),
            splits,
            tmp_path / "run",
            Options(device="cpu"),
        )
    assert not (tmp_path / "run" / "model").exists()


def test_a_time_limit_ends_it_with_a_model(splits, tmp_path):
    result = run_training(tiny(epochs=500), splits, tmp_path / "run", Options(device="cpu", minutes=1e-4))
    assert result.steps < 6
    assert result.metrics is not None
    assert (result.model_folder / "model.safetensors").is_file()


def test_without_semantic_branch(splits, tmp_path):
    result = run_training(
        tiny(epochs=1),
        replace(splits, val_annotations=None),
        tmp_path / "run",
        Options(device="cpu", semantic="none", checkpoints=None),
    )
    assert result.config.semantic is None
    assert "semantic" not in read_losses(tmp_path / "run" / "losses.csv")[1]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_weights_of_other_classes_start_all_but_the_class_layers(trained, splits, tmp_path):
    content = json.loads(splits.train_annotations.read_text())
    one = {
        **content,
        "categories": content["categories"][:1],
        "annotations": [{**a, "category_id": 4} for a in content["annotations"]],
    }
    path = tmp_path / "one.json"
    path.write_text(json.dumps(one))
    data = Splits(path, splits.train_images, None, None)
    still = tiny(epochs=1, optimizer=AdamW(lr=1e-12, weight_decay=0.0))
    said = []
    result = run_training(
        still, data, tmp_path / "run", Options(device="cpu", weights=str(trained.model_folder)), said.append
    )
    lines = [one.line for one in said if isinstance(one, Message)]
    assert lines == [f"all layers start from {trained.model_folder}, which has class disc"]
    start = json.loads((tmp_path / "run/start.json").read_text())
    assert (start["kept_classes"], start["new_classes"]) == (["disc"], [])
    before, after = (
        load(trained.model_folder, device="cpu").detector.state_dict(),
        load(result.model_folder, device="cpu").detector.state_dict(),
    )
    assert torch.allclose(before["backbone.conv1.weight"], after["backbone.conv1.weight"])
    rows = before["roi.box_heads.0.classify.weight"][[0, 2]]  # disc, not square, and the background
    assert torch.allclose(rows, after["roi.box_heads.0.classify.weight"])
    larger = still.replace(cascade={"box_channels": 8})
    with pytest.raises(CheckpointError, match="another architecture"):
        run_training(larger, data, tmp_path / "wrong", Options(device="cpu", weights=str(trained.model_folder)))


def test_validation_classes_are_checked_before_the_first_step(splits, tmp_path):
    content = json.loads(splits.val_annotations.read_text())
    content["categories"][0]["name"] = "disk"
    path = tmp_path / "val.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="'disk', which the model does not have"):
        run_training(tiny(), replace(splits, val_annotations=path), tmp_path / "run", Options(device="cpu"))
    assert not (tmp_path / "run" / "losses.csv").exists()


def test_the_best_weights_are_kept_and_become_the_model(splits, tmp_path, monkeypatch):
    numbers = iter([0.2, 0.5, 0.4])
    monkeypatch.setattr(
        "htc.training.run.evaluate_on_all_ranks",
        lambda *_: {"bbox": {"AP": 0.9}, "segm": {"AP": next(numbers)}, "per_class": {}},
    )
    plain = Options(device="cpu", images=0, validation_losses=False)
    kept = run_training(tiny(epochs=3), splits, tmp_path / "kept", plain)
    assert json.loads((kept.folder / "metrics.json").read_text())["model"] == {"epoch": 2, "step": 6, "is": "the best"}
    second = run_training(tiny(epochs=2), replace(splits, val_annotations=None), tmp_path / "second", plain)
    ours, theirs = (load_file(one.model_folder / "model.safetensors") for one in (kept, second))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.mark.slow
def test_mixed_precision_trains(splits, tmp_path):
    config = tiny(epochs=4, optimizer=AdamW(lr=2e-3)).replace(precision="bf16")
    run_training(
        config,
        replace(splits, val_annotations=None),
        tmp_path / "run",
        Options(device="cpu", checkpoints=None),
    )
    _, losses = read_losses(tmp_path / "run" / "losses.csv")
    total = [sum(values) for values in zip(*losses.values(), strict=True)]
    assert sum(total[-3:]) < 0.9 * sum(total[:3])


def test_both_looks_of_detectors_start_from_imagenet(splits, tmp_path):
    torch.manual_seed(5)
    original = torchvision.models.resnet18().state_dict()
    torch.save(original, tmp_path / "resnet18.pth")
    backbone = ResNet(depth=18, norm="batch", frozen_stages=-1, pretrained=str(tmp_path / "resnet18.pth"))
    config = tiny().replace(backbone=backbone, neck=RecursiveFPN(channels=16, norm="group"))
    said = []
    dataset = read_coco(splits.train_annotations, splits.train_images)
    module = build_module(config, dataset, Options(device="cpu"), tmp_path, said.append)
    detector = module.detector
    for one in (detector.backbone, detector.second_look.backbone):
        state = one.state_dict()
        assert all(torch.equal(state[name], value) for name, value in original.items() if name.startswith("layer"))
    assert any("starts from" in str(one) for one in said)


def test_a_training_says_which_colors_its_weights_expect(splits, tmp_path, monkeypatch):
    """And changes nothing by itself."""
    monkeypatch.setattr("htc.training.run.start_from_imagenet", lambda _, config: config.name)
    config = tiny().replace(backbone=ViT(name="vit_tiny_patch16_224", pretrained=True))
    dataset, said = read_coco(splits.train_annotations, splits.train_images), []
    module = build_module(config, dataset, Options(device="cpu"), tmp_path, said.append)
    expected = "add --input.mean 127.5,127.5,127.5 --input.std 127.5,127.5,127.5"
    assert any(
        one.line.startswith("the backbone starts from vit_tiny_patch16_224; its weights")
        and one.line.endswith(expected)
        for one in said
    )
    assert module.detector.config.input == tiny().input
