"""The weights that a training starts from, with servers on loopback that play the mirrors."""

import hashlib
import json
import re
import socket
import time
from dataclasses import replace

import pytest
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save

import htc
from checkpoint.historical import CLASSES, as_v2, save_v2, tiny_config
from checkpoint.weights_server import Behaviour, serve
from htc.checkpoint.load import load_model
from htc.checkpoint.zoo import RELEASED, cached
from htc.model.detector import Detector
from htc.presets import PRESETS
from htc.settings.layers import from_flags
from htc.training.start import COCO_START, PATIENCE, SMALL_START, Patience, choose_start
from training.discs import write_split

TINY = tiny_config().replace(preset=COCO_START)
RESNET18 = "resnet18.tv_in1k"


def seeded():
    torch.manual_seed(7)
    return Detector(TINY).state_dict()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small HTC with seeded weights in mmdetection's format."""
    return save_v2(tmp_path_factory.mktemp("coco") / "tiny.pth", as_v2(seeded())).read_bytes()


@pytest.fixture
def coco(monkeypatch, tmp_path, weights):
    """The mirror of the released weights; the preset is small. The hub is not reachable."""
    monkeypatch.setenv("HTC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HTC_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", closed_port())
    monkeypatch.setitem(PRESETS, COCO_START, lambda: TINY)
    digest = hashlib.sha256(weights).hexdigest()[:8]
    monkeypatch.setitem(RELEASED, COCO_START, replace(RELEASED[COCO_START], path=f"a/b-{digest}.pth", sha256=digest))
    server = Behaviour(weights)
    with serve(server) as address:
        monkeypatch.setenv("HTC_MIRROR", address)
        yield server


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def choose(weights=None, flags=(), *, on_gpu=True, fits=True, own_backbone=False, seen=None):
    begin = time.monotonic()
    found = choose_start(
        weights,
        from_flags(flags),
        on_gpu=on_gpu,
        fits=lambda _: fits,
        own_backbone=own_backbone,
        listener=(lambda _: None) if seen is None else seen.append,
    )
    return found, time.monotonic() - begin


def test_a_gpu_starts_from_released_weights(coco):
    seen = []
    found, _ = choose(seen=seen)
    assert (found.kind, found.weights) == ("weights", COCO_START)
    assert "released COCO weights" in found.rule
    assert list(dict.fromkeys(one.name for one in seen)) == [
        "choosing the weights to start from",
        f"downloading the weights of {COCO_START}",
        COCO_START,
    ]
    loaded = load_model(found.weights)
    assert loaded.config.classes == CLASSES
    assert all(torch.equal(loaded.state_dict[name], value) for name, value in seeded().items())
    assert len(coco.requests) == 1
    assert choose()[0] == found
    assert len(coco.requests) == 1, "the cache is used"


def test_a_redirect_is_followed(coco):
    with serve(Behaviour(coco.content)) as elsewhere:
        coco.redirect = f"{elsewhere}/elsewhere/file"
        assert choose()[0].weights == COCO_START


def broken(coco, how):
    match how:
        case "cut":
            coco.cut_after = [100, *[0] * 100]
        case "wrong hash":
            coco.content = bytes(coco.content[:-1]) + b"!"
        case "slow":
            coco.delay = 30.0
        case "missing":
            coco.statuses = [404] * 100
        case "broken":
            coco.statuses = [503] * 100


BROKEN = [
    ("cut", "no data for|interrupted"),
    ("wrong hash", "not the published file"),
    ("slow", r"no data for 2\.\d s"),
    ("missing", "Not Found|404"),
    ("broken", "Service Unavailable|503"),
]


@pytest.mark.parametrize(("how", "reason"), BROKEN)
def test_a_mirror_that_fails_costs_little_and_leads_to_the_next_best(coco, how, reason):
    broken(coco, how)
    found, seconds = choose()
    assert found.kind == "none"
    assert found.rule.startswith("random weights, a compromise")
    assert f"released weights {COCO_START}: " in found.rule
    assert f"ImageNet weights {RESNET18}: " in found.rule
    assert re.search(reason, found.rule)
    assert seconds < PATIENCE + 1.0
    assert not cached(COCO_START).exists()


def test_offline_means_no_attempt(coco, monkeypatch):
    monkeypatch.setenv("HTC_OFFLINE", "1")
    found, seconds = choose()
    assert found.kind == "none"
    assert "offline (HTC_OFFLINE)" in found.rule
    assert coco.requests == []
    assert seconds < 1.0
    cached(COCO_START).parent.mkdir(parents=True)
    cached(COCO_START).write_bytes(coco.content)
    assert choose()[0].weights == COCO_START, "what is in the cache needs no network"


def test_what_does_not_suit_coco_weights(coco):
    assert "COCO weights (htc_r50_fpn_20e_coco) are for a GPU" in choose(on_gpu=False)[0].rule
    assert "does not fit the device's memory" in choose(fits=False)[0].rule
    changed, _ = choose(flags=[("neck.channels", "32"), ("training.epochs", "3")])
    assert "COCO weights do not fit your settings of neck" in changed.rule
    own, _ = choose(flags=[("backbone.depth", "34")])
    assert "ImageNet weights may not fit your settings of the backbone" in own.rule
    assert coco.requests == []
    assert choose(flags=[("training.epochs", "3"), ("input.short-edge", "640")])[0].weights == COCO_START
    for found in (choose(flags=[("preset", "htc_r18_small")]), choose(own_backbone=True)):
        assert (found[0].kind, found[0].config, found[0].settings) == ("none", None, ())


@pytest.mark.slow
def test_what_the_user_asks_for_is_had_or_an_error(coco):
    assert choose("none")[0].kind == "none"
    assert choose("runs/own")[0].weights == "runs/own"
    assert choose("coco", on_gpu=False)[0].weights == COCO_START
    broken(coco, "missing")
    cached(COCO_START).unlink()
    with pytest.raises(htc.CheckpointError, match="404"):
        choose("coco")
    with pytest.raises(htc.CheckpointError, match="resnet18"):
        choose("imagenet", on_gpu=False)
    settings = choose("imagenet", [("preset", "htc_r18_small")])[0].settings
    assert [(one.path, one.value) for one in settings] == [
        (("backbone", "pretrained"), True),
        (("backbone", "norm"), "statistics_fixed"),
    ]


@pytest.fixture
def hub(coco, monkeypatch):
    """The hub with ImageNet weights of a ResNet-18."""
    torch.manual_seed(3)
    content = save(torchvision.models.resnet18().state_dict())
    digest = hashlib.sha256(content).hexdigest()
    headers = {"ETag": f'"{digest}"', "X-Repo-Commit": "a" * 40, "X-Linked-Size": str(len(content))}
    server = Behaviour(content, headers=headers)
    with serve(server) as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def test_damaged_weights_of_the_hub_are_not_used(hub):
    hub.content = b"damaged"
    hub.headers["X-Linked-Size"] = "7"
    found, _ = choose(on_gpu=False)
    assert found.kind == "none"


@pytest.mark.usefixtures("hub")
def test_a_cpu_starts_from_imagenet_weights():
    found, _ = choose(on_gpu=False)
    assert found.kind == "imagenet", found.rule
    assert found.config.preset == SMALL_START
    assert found.config.backbone.pretrained is True
    assert found.config.backbone.norm == "statistics_fixed"
    assert type(found.config).model_validate(found.config.model_dump()) == found.config
    again, seconds = choose(on_gpu=False)
    assert again.kind == "imagenet"
    assert seconds < 1.0


@pytest.mark.usefixtures("hub")
def test_a_gpu_without_released_weights_takes_imagenet_weights_of_its_preset(coco):
    broken(coco, "missing")
    found, _ = choose()
    assert found.kind == "imagenet", found.rule
    assert found.config.preset == COCO_START
    assert found.config.backbone.pretrained is True
    assert f"released weights {COCO_START}: " in found.rule


def test_patience_is_shared_and_progress_renews_it():
    patience = Patience(0.6)
    steady = patience.attempt("steady", lambda progress: [(time.sleep(0.2), progress(n))[0] for n in range(1, 6)])
    assert steady is not None
    assert patience.left == 0.6
    assert patience.attempt("dead", lambda _: time.sleep(9), most=0.2) is None
    assert patience.left == pytest.approx(0.4, abs=0.1)
    begin = time.monotonic()
    assert patience.attempt("dead too", lambda _: time.sleep(9)) is None
    assert time.monotonic() - begin < 0.6
    assert patience.left < 0.1
    assert [line.split(":")[0] for line in patience.failed] == ["dead", "dead too"]


def test_a_run_records_its_start_and_a_resumed_one_asks_no_mirror(coco, tmp_path, monkeypatch):
    for name in ("train", "val"):
        (tmp_path / "data/annotations").mkdir(parents=True, exist_ok=True)
        write_split(tmp_path / "data", name, 3, 0).rename(tmp_path / f"data/annotations/instances_{name}.json")
    chosen = choose_start
    monkeypatch.setattr(
        "htc.training.train.choose_start", lambda *args, **options: chosen(*args, **{**options, "on_gpu": True})
    )
    options = {"device": "cpu", "progress": False, "training": {"warmup_steps": 1}, "out": tmp_path / "run"}
    options["input"] = {"short_edge": 64, "long_edge": 80}
    first = htc.train(tmp_path / "data", epochs=1, **options)
    assert first.config.preset == COCO_START
    choices = json.loads((tmp_path / "run/choices.json").read_text())
    fields = {name: value for choice in choices for name, value in choice["fields"].items()}
    assert fields["weights"] == COCO_START
    assert json.loads((tmp_path / "run/start.json").read_text())["weights"] == COCO_START
    asked = len(coco.requests)
    cached(COCO_START).unlink()
    resumed = htc.train(tmp_path / "data", epochs=2, **options, resume=True)
    assert resumed.config.preset == COCO_START
    assert resumed.steps == 2 * first.steps
    assert len(coco.requests) == asked
