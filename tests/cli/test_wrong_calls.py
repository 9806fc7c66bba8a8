"""A wrong call is answered before torch is imported, with exit code 2 and a message that names what is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from htc.presets import preset

PRESET = "htc_r50_fpn_1x_coco"
RUNNER = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from htc.cli.app import run
answers = []
for call in json.loads(sys.argv[1]):
    out, err, before = io.StringIO(), io.StringIO(), sorted(map(str, Path().rglob("*")))
    with redirect_stdout(out), redirect_stderr(err):
        code = run(call)
    written = sorted(set(map(str, Path().rglob("*"))) ^ set(before))
    answers.append([code, out.getvalue(), err.getvalue(), "torch" in sys.modules, written])
print(json.dumps(answers))
"""
"""All calls in one process: torch, once imported by one of them, stays so for those after it."""
PREDICT = ("predict", "a.png", "--model", PRESET)
EVALUATE = ("evaluate", PRESET, "--annotations", "data/annotations/instances_val.json")
TRAIN = ("train", "--data", "data")
FILES = ("--train-annotations", "data/annotations/instances_train.json", "--train-images", "data/train")
CALLS = (
    (("val",), "did you mean `htc evaluate`?"),
    (("--model", PRESET), "the command comes first"),
    (("predict", "no.jpg", "--model", PRESET), "no.jpg: no such file"),
    (("predict", "empty", "--model", PRESET), "empty: no images in this folder"),
    (("predict", "*.webp", "--model", PRESET), "*.webp: no images in this pattern"),
    (("predict", "text.jpg", "--model", PRESET), "text.jpg is not an image, or its header is damaged"),
    (("predict", "a.png", "--model", "htc_r50_fpn_2x_coco"), "did you mean htc_r50_fpn_1x_coco"),
    (("predict", "a.png", "--model", "nowhere/model"), "nowhere/model: no such file or folder"),
    (("predict", "a.png", "--model", "empty"), "empty: no model in this folder"),
    (("predict", "a.png", "--model", "run", "--classes", "discs"), "did you mean disc?"),
    (("predict", "a.png", "--model", "run", "--cascade.num_stages", "7"), "--cascade.num_stages"),
    (("predict", "a.png", "--weights", "run/model/model.safetensors"), "give a weights file as --model FILE"),
    ((*PREDICT, "--classes", "person", "persn"), "has no class 'persn'; did you mean person"),
    ((*PREDICT, "--conf", "0.3"), "unknown option --conf; did you mean --score-threshold?"),
    ((*PREDICT, "--device", "gpu"), "--device 'gpu' is unknown: give auto, cpu, cuda, cuda:N"),
    ((*PREDICT, "--precision", "fp16"), '"auto", "fp32", "bf16"'),
    ((*PREDICT, "--inference.nms_iou", "7"), "--inference.nms_iou: should be less than or equal to 1"),
    ((*PREDICT, "--config", "no.yaml"), "--config no.yaml: there is no such file"),
    ((*PREDICT, "--json", "empty"), "--json empty: is a folder"),
    ((*PREDICT, "--json", "text.jpg"), "text.jpg: exists already"),
    ((*PREDICT, "--weights", "no.pth"), "--weights no.pth: no such file"),
    ((*PREDICT, "--annotations", "no.json"), "--annotations no.json: no such file"),
    ((*PREDICT, "--annotations", "broken.json"), "broken.json is not valid JSON"),
    ((*PREDICT, "--views", "1:flop"), "after the colon, write flip, vflip"),
    ((*PREDICT, "--workers", "-1"), "--workers"),
    ((*PREDICT, "--max-pixels", "5"), "a.png has 80 pixels"),
    (("evaluate", "no_preset", "--annotations", "data/annotations/instances_val.json"), "no_preset"),
    (("evaluate", PRESET), "no dataset to evaluate on"),
    (("evaluate", PRESET, "--annotations", "no.json"), "--annotations no.json: no such file"),
    ((*EVALUATE, "--images", "nowhere"), "--images nowhere: no such folder"),
    ((*EVALUATE, "--against", "no.json"), "--against no.json: no such file"),
    ((*EVALUATE, "--views", "2x1"), "'2x1'"),
    ((*EVALUATE, "--semantic", "nowhere"), "semantic nowhere: no such folder"),
    ((*EVALUATE, "--device", "cuda:x"), "--device 'cuda:x' is unknown"),
    (("evaluate", "--results", "no.json", "--annotations", "broken.json"), "--results no.json: no such file"),
    (("train",), "nothing to train on"),
    (("train", "--data", "nowhere"), "nowhere: no such folder"),
    (("train", "--data", "empty"), "empty has none of the known layouts"),
    (("train", "--train-annotations", "no.json", "--train-images", "data/train"), "no.json: no such file"),
    (("train", *FILES[:3], "nowhere"), "nowhere: no such folder"),
    (("train", *FILES, "--val-annotations", "no.json", "--val-images", "data/val"), "no.json: no such file"),
    ((*TRAIN, "--preset", "htc_r50"), "there is no preset 'htc_r50'"),
    ((*TRAIN, "--weights", "no.pth"), "--weights no.pth: no such file"),
    ((*TRAIN, "--lr0", "1"), "did you mean --lr?"),
    ((*TRAIN, "--device", "0,1"), "--device '0,1' is a list of 2"),
    ((*TRAIN, "--out", "data"), "--out data: is not empty"),
    (("convert", "no.pth", "out"), "no.pth: no such file"),
    (("convert", "run", "data"), "DST data exists already"),
    ((*PREDICT, "--weights", PRESET, "--model", PRESET), "--weights is for one model"),
    ((*PREDICT, "--no-draw"), "--no-draw: nothing would be written"),
    (("convert", "run", "out", "--colors", "blue"), '"bgr", "rgb"'),
    (("doctor", "nowhere"), "nowhere: no such file or folder"),
    (("doctor", "empty"), "the folder is empty"),
    (("doctor", "data/annotations/instances_val.json", "nowhere"), "IMAGES nowhere: no such folder"),
    (("doctor", "data", "--json", "broken.json"), "broken.json: exists already"),
    (("ablate", "--table", "2", "--data", "nowhere"), "nowhere: no such folder"),
    (("ablate", "--table", "9", "--data", "data"), "9"),
    (("ablate", "--table", "2", "--data", "data", "--rows", "nothing"), "nothing"),
    (("ablate", "--table", "2", "--data", "data", "--device", "tpu"), "--device 'tpu' is unknown"),
    (("benchmark", "--size", "big"), "--size big"),
    (("benchmark", "speed"), '"components"'),
    (("benchmark", "--rpn.sampels", "2"), "did you mean rpn.samples?"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, files of other kinds, a COCO dataset and a run folder whose weights cannot be read."""
    root = tmp_path_factory.mktemp("wrong")
    Image.new("RGB", (10, 8)).save(root / "a.png")
    (root / "text.jpg").write_text("hello")
    (root / "broken.json").write_text('{"images": [')
    (root / "empty").mkdir()
    model = root / "run" / "model"
    model.mkdir(parents=True)
    config = preset("htc_r18_small").replace(classes=("disc", "square"), category_ids=(1, 2))
    (model / "config.json").write_text(config.model_dump_json())
    (model / "model.safetensors").write_bytes(b"none")
    (root / "data" / "annotations").mkdir(parents=True)
    for part in ("train", "val"):
        (root / "data" / part).mkdir()
        shutil.copy(root / "a.png", root / "data" / part)
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 10}],
            "annotations": [],
            "categories": [{"id": 1, "name": "disc"}],
        }
        (root / "data" / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return root


class Answer(NamedTuple):
    code: int
    out: str
    err: str
    has_torch: bool
    written: list[str]


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[tuple[str, ...], Answer]:
    """What each call is answered with."""
    calls = [call for call, _ in CALLS]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(calls)], capture_output=True, text=True, timeout=120, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return {call: Answer(*answer) for call, answer in zip(calls, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize(("arguments", "message"), CALLS, ids=[" ".join(call)[:60] for call, _ in CALLS])
def test_it_is_answered_without_torch(
    answers: dict[tuple[str, ...], Answer], arguments: tuple[str, ...], message: str
) -> None:
    answer = answers[arguments]
    assert answer.code == 2, answer.err
    assert message in answer.err
    assert not answer.has_torch, f"torch was imported: {answer.err}"
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.written == []
