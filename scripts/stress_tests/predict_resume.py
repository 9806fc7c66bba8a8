"""A prediction on a folder that is killed at random moments: resumed, it has the same files, and every image once."""

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from htc.checkpoint.native import save_pretrained
from htc.cli.app import run
from stress_tests.harness import Case, Stress
from stress_tests.kill import in_child, started
from stress_tests.samples import random_state, tiny_config

IMAGES = 12
KILLS = 3
"""Maximum number of times that a prediction is killed."""


def prepare(shared: Path) -> Case:
    """Predict without an interruption; the case compares with it."""
    config = tiny_config()
    model = save_pretrained(random_state(config), config, shared / "model")
    photos = shared / "photos"
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        place = photos / f"cam{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.{('png', 'jpg')[number % 3 == 0]}")
    begin = time.monotonic()
    whole = {mode: files_of(predict(model, photos, shared / mode, mode)) for mode in MODES}
    length = (time.monotonic() - begin) / len(MODES)

    def case(_index: int, numbers: random.Random, folder: Path) -> str | None:
        mode = numbers.choice(sorted(MODES))
        call = arguments(model, photos, folder, mode)
        moments = [numbers.uniform(0, length) for _ in range(numbers.randint(1, KILLS))]
        complete = False
        for moment in moments:
            pid = started(lambda: quietly(call))
            time.sleep(moment)
            os.kill(pid, signal.SIGKILL)
            complete = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            if complete:  # it had ended before
                break
        when = ", ".join(f"{moment:.2f}" for moment in moments)
        if not complete and in_child(lambda: quietly(call)) != 0:
            return f"{mode}, killed after {when} s: it cannot be resumed"
        found = files_of(folder)
        if found.keys() != whole[mode].keys():
            different = sorted(found.keys() ^ whole[mode].keys())
            return f"{mode}, killed after {when} s: other files: {', '.join(different[:5])}"
        unequal = [name for name, content in whole[mode].items() if found[name] != content]
        return f"{mode}, killed after {when} s: {unequal[0]} differs" if unequal else None

    return case


MODES = {
    "json": ("--json", "{}/results.json", "--no-draw"),
    "drawings": ("--out", "{}/out"),
    "labelme": ("--out", "{}/out", "--labelme", "--no-draw"),
    "everything": ("--json", "{}/results.json", "--out", "{}/out", "--labelme", "--batch-size", "3"),
}
"""Output options; {} is the folder."""


def arguments(model: Path, photos: Path, folder: Path, mode: str) -> list[str]:
    """Return the command line."""
    outputs = [option.format(folder) for option in MODES[mode]]
    shown = ["--score-threshold", "0.05", "--device", "cpu", "--resume"]
    return ["predict", str(photos), "--model", str(model), *shown, *outputs]


def predict(model: Path, photos: Path, folder: Path, mode: str) -> Path:
    """Predict without an interruption and return the folder of the outputs."""
    folder.mkdir()
    if in_child(lambda: quietly(arguments(model, photos, folder, mode))) != 0:
        raise RuntimeError(f"the uninterrupted prediction ({mode}) failed")
    return folder


def quietly(call: list[str]) -> None:
    """Run the command line without its messages; raises for another exit code than 0."""
    torch.set_num_threads(1)
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    code = run(call)
    os.dup2(kept, 2)
    if code != 0:
        raise RuntimeError(f"exit code {code}")


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file, hidden ones included; of labelme's without the relative path of the image."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json" and path.name != "results.json":
            content = json.dumps({**json.loads(content), "imagePath": ""}).encode()
        files[path.relative_to(folder).as_posix()] = content
    return files


STRESS = Stress(
    "predict-resume",
    "a prediction on a folder, killed at random moments: resumed, it has the same files",
    50,
    prepare,
    seconds=600,
    mebibytes=None,
    at_least=3,
)
