"""What exact resume needs of Lightning's loops: the versions tried, the attributes used and the checkpoint's layout.

That an interrupted training continues exactly is tested by test_checkpoints.py, through these.
"""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from lightning import Callback

import htc.training
from htc.config import Training
from htc.training.checkpoints import Checkpoints, Every
from htc.training.module import TrainingModule, fit
from htc.training.resume import ATTRIBUTES, VERSIONS_TRIED, is_end_of_epoch
from training.point import Distance, Point, batch

UNDOCUMENTED = re.compile(r'fit_loop|\["loops"\]|trainer\._')
LAYOUT = {
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "state_dict",
    "loops",
    "callbacks",
    "optimizer_states",
    "lr_schedulers",
    "_Epochs",
}
BATCHES = 3


def test_this_version_of_lightning_was_tried() -> None:
    installed = version("lightning")
    assert installed.startswith(tuple(f"{one}." for one in VERSIONS_TRIED)), (
        f"Lightning {installed} was not tried with exact resume (tried: {', '.join(VERSIONS_TRIED)}). Check that these "
        f"still mean the same, see htc.training.resume: {'; '.join(ATTRIBUTES)}. Then run "
        f"tests/training/test_resume.py and test_checkpoints.py, and add it to VERSIONS_TRIED"
    )


def test_no_other_module_uses_undocumented_attributes() -> None:
    folder = Path(htc.training.__file__).parent
    users = {path.name for path in folder.glob("*.py") if UNDOCUMENTED.search(path.read_text(encoding="utf-8"))}
    assert users == {"resume.py"}


class Ends(Callback):
    """Notes after which batches the epoch ends."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.seen.append(is_end_of_epoch(trainer))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs of one weight, a checkpoint after each step: (which batches end an epoch, the checkpoint before each
    step, the last one).
    """
    folder, point, ends, kept = tmp_path_factory.mktemp("run"), Point(), Ends(), {}

    class Keep(Callback):
        def on_train_batch_start(self, trainer, *_) -> None:
            kept[trainer.global_step] = torch.load(folder / "last.ckpt", weights_only=True)

    module = TrainingModule(point, Distance(point), Training(), BATCHES, 2, 2)
    batches = lambda _epoch, done: [batch(0.1 * i) for i in range(done, BATCHES)]  # noqa: E731
    fit(module, batches, [ends, Checkpoints(folder, Every(steps=1)), Keep()], 2, device="cpu")
    return ends.seen, kept, torch.load(folder / "last.ckpt", weights_only=True)


def test_the_last_batch_of_an_epoch_is_known(run) -> None:
    assert run[0] == [False, False, True] * 2


def test_a_checkpoint_has_the_layout_of_earlier_versions(run) -> None:
    _, kept, last = run
    for checkpoint in (*kept.values(), last):
        assert checkpoint.keys() == LAYOUT
        assert checkpoint["_Epochs"].keys() == {"begun"}


def test_a_checkpoint_counts_the_batch_just_done(run) -> None:
    _, kept, last = run
    assert sorted(kept) == list(range(6))
    progress = [kept[step]["loops"]["fit_loop"]["epoch_loop.batch_progress"] for step in range(6)]
    assert [one["total"]["completed"] for one in progress] == [0, 1, 2, 3, 4, 5]
    assert [one["current"]["completed"] for one in progress] == [0, 1, 2, 3, 1, 2]
    begun = [tuple(one["_Epochs"]["begun"]) for one in (*kept.values(), last)]
    assert begun == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
