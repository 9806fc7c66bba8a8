"""Going on from a checkpoint, with an objective of one weight: every place of an epoch, every cause of an end."""

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback

from htc.config import AdamW, Training
from htc.errors import OutputError
from htc.training.checkpoints import Checkpoints, Every
from htc.training.history import read_history
from htc.training.module import TrainingModule, fit
from htc.training.record import LossRecord
from htc.training.validation import Validation
from training.point import Distance, Point, batch

EPOCHS, BATCHES = 2, 5
EACH_STEP, NEVER = Every(steps=1), Every(seconds=1e9)


class Noisy(Distance):
    """As `Distance`, with a random number inside the network."""

    def forward(self, batch):
        return {**super().forward(batch), "noise": torch.rand(()) * self.point.weight}


class Stop(Callback):
    """Does something when so many batches are done, before a checkpoint could be written, or at the end of an epoch."""

    def __init__(self, moment, action):
        self.moment, self.action = moment, action
        self.batches = 0

    def on_train_batch_end(self, *_):
        self.batches += 1
        if self.batches == self.moment:
            self.action()


class InterruptionError(Exception):
    """Raised in place of kill -9."""


def interrupt():
    raise InterruptionError


def batches(epoch, done):
    return [batch(0.1 * (7 * epoch + 3 * i) % 5) for i in range(done, BATCHES)]


def run(folder, *, accumulate=1, callbacks=(), every=EACH_STEP, resume=False, epochs=EPOCHS):
    torch.manual_seed(len(callbacks))  # the state of the process has no influence
    point = Point()
    training = Training(
        optimizer=AdamW(lr=0.1), warmup_steps=4, schedule="cosine", average_decay=0.9, accumulate=accumulate
    )
    module = TrainingModule(
        point, Noisy(point), training, -(-BATCHES // accumulate), epochs, images_per_step=2 * accumulate, seed=3
    )
    own = [
        LossRecord(folder / "losses.csv"),
        Validation(
            folder, lambda detector: {"bbox": {"AP": float(detector.weight.detach())}, "per_class": {}}, 1, epochs
        ),
        *callbacks,
        Checkpoints(folder / "checkpoints", every),
    ]
    last = folder / "checkpoints" / "last.ckpt" if resume else None
    fit(
        module,
        batches,
        own,
        epochs,
        device="cpu",
        accumulate=accumulate,
        clip_gradients=1.0,
        resume=last,
    )
    return module


def same_files(one: Path, other: Path):
    return [
        name
        for name in ("losses.csv", "pictures.csv", "history.json")
        if (one / name).read_bytes() != (other / name).read_bytes()
    ] == []


@pytest.fixture(autouse=True, scope="module")
def _no_curves():
    """Drawing takes longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("htc.training.validation.draw_curves", lambda _folder: None)
        yield


@pytest.fixture(scope="module", params=[1, 2])
def whole(request, tmp_path_factory):
    """A training that nothing interrupts: its accumulation, folder and module."""
    folder = tmp_path_factory.mktemp("whole")
    return request.param, folder, run(folder, accumulate=request.param)


def test_interrupted_at_every_batch_it_is_the_same_training(whole, tmp_path):
    accumulate, folder, module = whole
    for moment in range(1, EPOCHS * BATCHES + 1):
        mine = tmp_path / str(moment)
        with pytest.raises(InterruptionError):
            run(mine, accumulate=accumulate, callbacks=[Stop(moment, interrupt)])
        resumed = run(mine, accumulate=accumulate, resume=True)
        assert same_files(mine, folder), moment
        for name, value in module.state_dict().items():  # the moving average and its count too
            assert torch.equal(value, resumed.state_dict()[name]), (moment, name)


class TerminatedError(BaseException):
    """What the handler of SIGTERM raises here."""


@pytest.fixture
def handlers():
    """SIGINT and SIGTERM as the command line has them."""

    def stop(*_):
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, stop), signal.signal(signal.SIGINT, signal.default_int_handler)
    yield stop
    signal.signal(signal.SIGTERM, before[0])
    signal.signal(signal.SIGINT, before[1])


@pytest.mark.parametrize(("sent", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, TerminatedError)])
@pytest.mark.parametrize("moment", [3, 5])
def test_a_signal_waits_for_the_end_of_the_step_and_its_checkpoint(whole, tmp_path, handlers, sent, raised, moment):
    accumulate, folder, _ = whole
    with pytest.raises(raised):
        run(tmp_path, accumulate=accumulate, callbacks=[Stop(moment, lambda: os.kill(os.getpid(), sent))], every=NEVER)
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == -(-moment // accumulate)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == (handlers, signal.default_int_handler)
    run(tmp_path, accumulate=accumulate, resume=True, every=NEVER)
    assert same_files(tmp_path, folder)


def test_a_second_signal_does_not_wait(tmp_path, handlers):
    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TerminatedError):
        run(tmp_path, callbacks=[Stop(3, twice)], every=NEVER)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 0


def test_an_evaluation_is_interrupted_at_once_and_done_again(whole, tmp_path, handlers, monkeypatch):
    accumulate, folder, _ = whole

    def signalled(*_args):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the evaluation went on")

    with monkeypatch.context() as patch:
        patch.setattr("htc.training.validation.write_history", signalled)
        patch.setattr(Validation, "on_train_start", lambda *_: None)
        with pytest.raises(TerminatedError):
            run(tmp_path, accumulate=accumulate)
    run(tmp_path, accumulate=accumulate, resume=True)
    assert same_files(tmp_path, folder)
    assert [entry["epoch"] for entry in read_history(tmp_path)] == [1, 2]


def test_an_epoch_cut_short_by_time_is_finished_by_a_resume(whole, tmp_path):
    accumulate, folder, _ = whole

    class Cut(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 2

    run(tmp_path, accumulate=accumulate, callbacks=[Cut()], every=NEVER)
    assert [entry["step"] for entry in read_history(tmp_path)] == [2]
    run(tmp_path, accumulate=accumulate, resume=True)
    for name in ("losses.csv", "pictures.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    per_epoch = -(-BATCHES // accumulate)
    assert [entry["step"] for entry in read_history(tmp_path)] == [2, per_epoch, 2 * per_epoch]


class FullDisk:
    """A file that takes so many bytes, then finds the disk full."""

    def __init__(self, room):
        self.room = room

    def write(self, content):
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")


def full_disk(room):
    """Replaces `Writer.__init__`."""

    def begin(writer, _stream, path):
        writer._stream, writer._path = FullDisk(room), path

    return begin


def test_a_full_disk_leaves_the_checkpoint_before_it(whole, tmp_path, monkeypatch):
    accumulate, folder, _ = whole

    def fill():
        monkeypatch.setattr("htc.files.Writer.__init__", full_disk(3000))

    with (
        monkeypatch.context() as monkeypatch,
        pytest.raises(
            OutputError,
            match=r"last\.ckpt: the disk is full: free some space.* checkpoint, of step 1, is complete.*--resume",
        ),
    ):
        run(tmp_path, accumulate=accumulate, callbacks=[Stop(2 * accumulate, fill)])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1
    run(tmp_path, accumulate=accumulate, resume=True)
    assert same_files(tmp_path, folder)


def test_the_system_s_limit_on_files_leaves_the_checkpoint_before_it(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(OutputError, match="the file would be larger than this system or session allows"):
            run(tmp_path, callbacks=[Stop(2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1])))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 1


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".last.ckpt.123.tmp").write_bytes(b"half")
    run(tmp_path, epochs=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
