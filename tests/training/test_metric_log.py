"""Which steps and evaluations each logger receives, over several processes of one training of one weight."""

import json

import pytest
from lightning import Callback
from lightning.pytorch.loggers import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from htc.config import SGD, Training
from htc.errors import ConfigError, DataError, InstallationError, OutputError
from htc.training.checkpoints import LAST, Checkpoints, Every, steps_done
from htc.training.loggers import LoggedRun, Reached, check_loggers, opened_loggers, read_record
from htc.training.metric_log import flat_values, logging_to
from htc.training.module import TrainingModule, fit
from htc.training.record import LossRecord, steps_recorded
from htc.training.validation import Validation
from training.point import Distance, Point, batch

STEPS = 3
"""Of an epoch."""


class Memory(Logger):
    """A logger that cannot purge; what it receives outlives the process."""

    def __init__(self, received, version="1"):
        super().__init__()
        self.received = received
        self._version = version

    @property
    def name(self):
        return "memory"

    @property
    def version(self):
        return self._version

    def log_metrics(self, metrics, step=None):
        self.received.append((step, dict(metrics)))

    def log_hyperparams(self, params):
        self.received.append(("hyperparameters", dict(params)))


class Interruption(Callback):
    """Ends the training before a step, or after the evaluation that follows it."""

    def __init__(self, step, *, evaluated=False):
        self.step = step
        self.evaluated = evaluated

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step and not self.evaluated:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer, *_):
        if trainer.global_step == self.step and self.evaluated:
            raise KeyboardInterrupt


def session(folder, *loggers, until=None, epochs=2, every=None):
    """One process of the training: new, or resumed where there is a checkpoint."""
    point, last = Point(), folder / LAST
    training = Training(optimizer=SGD(lr=0.8, momentum=0.0, weight_decay=0.0))
    module = TrainingModule(point, Distance(point), training, STEPS, epochs, images_per_step=2)
    evaluate = lambda detector: {"bbox": {"AP": float(detector.weight.detach()) / 4}, "per_class": {}}  # noqa: E731
    resume = last if last.is_file() else None
    with logging_to(loggers, folder, {"optimizer": {"lr": 0.8}}, resume, None) as (opened, log):
        callbacks = [
            LossRecord(folder / "losses.csv"),
            Validation(folder, evaluate, 1, epochs),
            *log,
            *([] if until is None else [until]),
            Checkpoints(folder, Every(seconds=1e6, steps=every)),
        ]
        batches = lambda epoch, done: [batch(0.1 * (epoch + i)) for i in range(done, STEPS)]  # noqa: E731
        limits = epochs
        if until is None:
            fit(module, batches, callbacks, limits, device="cpu", resume=resume, loggers=opened)
        else:
            with pytest.raises(KeyboardInterrupt):
                fit(module, batches, callbacks, limits, device="cpu", resume=resume, loggers=opened)


def steps(received):
    """The steps whose losses were received, in order."""
    return [step for step, values in received if "train/total" in values]


def evaluated(received):
    """The steps whose evaluations were received, in order."""
    return [step for step, values in received if "bbox/AP" in values]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a training that nothing interrupts logs."""
    received = []
    session(tmp_path_factory.mktemp("whole"), Memory(received))
    return received


def test_losses_evaluations_and_hyperparameters_are_logged(whole):
    assert whole[0] == ("hyperparameters", {"optimizer.lr": 0.8})
    assert steps(whole) == list(range(2 * STEPS))
    assert evaluated(whole) == [2, 5]
    assert whole[1][1].keys() == {"train/square", "train/linear", "train/total", "learning_rate"}
    assert whole[4][1].keys() == {"bbox/AP"}


@pytest.mark.parametrize("interrupted", range(1, 2 * STEPS))
def test_a_logger_that_cannot_purge_receives_each_step_once(tmp_path, whole, interrupted):
    received = []
    session(tmp_path, Memory(received), until=Interruption(interrupted))
    session(tmp_path, Memory(received))
    assert received == whole


def test_an_evaluation_before_the_interruption_is_not_logged_again(tmp_path, whole):
    """The checkpoint is that of the step before the evaluation, which the resumed run makes again."""
    received = []
    session(tmp_path, Memory(received), until=Interruption(3, evaluated=True), every=1)
    assert evaluated(received) == [2]
    session(tmp_path, Memory(received))
    assert received == whole


@pytest.mark.parametrize(
    "until", [Interruption(3, evaluated=True), Interruption(2), Interruption(5)], ids=["evaluated", "2", "5"]
)
def test_tensorboard_has_each_point_once(tmp_path, whole, until):
    session(tmp_path, "tensorboard", until=until, every=1 if until.evaluated else None)
    session(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(one.step, name, one.value) for name in events.Tags()["scalars"] for one in events.Scalars(name)]
    expected = [(step, name, pytest.approx(value)) for step, row in whole[1:] for name, value in row.items()]
    assert sorted(found, key=lambda one: one[:2]) == sorted(expected, key=lambda one: one[:2])


def test_a_logger_that_comes_later_receives_what_is_repeated(tmp_path, whole):
    session(tmp_path, until=Interruption(5))
    received = []
    session(tmp_path, Memory(received))
    assert received == [whole[0], *whole[5:]]  # the checkpoint is that of the first epoch


def test_a_logger_that_is_left_out_for_a_while_has_no_step_twice_and_no_other_hole(tmp_path, whole):
    received = []
    session(tmp_path, Memory(received), until=Interruption(2))
    session(tmp_path, until=Interruption(5))
    session(tmp_path, Memory(received))
    assert received == [*whole[:3], *whole[5:]]


def test_a_logger_without_a_version_or_with_another_one_begins_a_run(tmp_path, whole):
    first, second, third = [], [], []
    session(tmp_path, Memory(first, None), until=Interruption(2))
    session(tmp_path, Memory(second, None), until=Interruption(2))
    session(tmp_path, Memory(third, "2"))
    assert steps(first) == steps(second) == [0, 1]
    assert third == whole


def test_several_loggers_receive_the_same(tmp_path, whole):
    first, second = [], []
    session(tmp_path, Memory(first), Memory(second, "2"))
    assert first == second == whole
    assert len(read_record(tmp_path)) == 2


def test_a_failure_closes_the_runs_too(tmp_path):
    session(tmp_path, Memory([]), until=Interruption(2))
    (entry,) = read_record(tmp_path).values()
    assert entry == LoggedRun("memory/1", active=True, ended=True)
    session(tmp_path)
    (entry,) = read_record(tmp_path).values()
    assert entry == LoggedRun("memory/1", 2, 0, active=False, ended=False)


def test_hyperparameters_are_flat():
    nested = {"seed": 1, "training": {"lr": None, "ious": [0.5, 0.6], "optimizer": {"kind": "sgd"}}}
    assert flat_values(nested) == {
        "seed": 1,
        "training.lr": None,
        "training.ious": "0.5, 0.6",
        "training.optimizer.kind": "sgd",
    }


def test_steps_are_counted_up_to_the_last_whole_row(tmp_path):
    path = tmp_path / "losses.csv"
    assert steps_recorded(path) == 0
    path.write_text("step,epoch\n")
    assert steps_recorded(path) == 0
    path.write_text("step,epoch\n0,0\n1,0\n2")
    assert steps_recorded(path) == 2


def test_the_steps_of_a_checkpoint_are_read(tmp_path):
    session(tmp_path, epochs=1)
    assert steps_done(tmp_path / LAST) == STEPS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "is not a record of loggers"),
        ('{"wandb": 3}', "is not a record of loggers"),
        ('{"wandb": {"id": "a"}}', "is not a record of loggers"),
        ('{"wandb": {"run": 5}}', r"is not a record of loggers \(wandb\.run: "),
        ('{"wandb": {"run": "a", "steps": "many"}}', r"is not a record of loggers \(wandb\.steps: "),
    ],
)
def test_a_damaged_record_is_named_with_the_remedy(tmp_path, content, message):
    (tmp_path / "loggers.json").write_text(content)
    with pytest.raises(DataError, match=rf"loggers\.json.*{message}.*[Dd]elete it") as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_new_training_begins_new_runs_whatever_the_record_holds(tmp_path):
    (tmp_path / "loggers.json").write_text("{")
    received = []
    session(tmp_path, Memory(received), epochs=1)
    assert steps(received) == [0, 1, 2]


def test_a_record_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "loggers.json").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*loggers\.json"):
        session(tmp_path, Memory([]))


def test_the_record_of_an_older_process_is_read(tmp_path):
    entry = {"run": "abc", "steps": 3, "evaluated": 3, "active": False}
    (tmp_path / "loggers.json").write_text(json.dumps({"wandb": entry}))
    assert read_record(tmp_path) == {"wandb": LoggedRun("abc", 3, 3, active=False)}


class Failing(Memory):
    """Fails at a step."""

    def log_metrics(self, metrics, step=None):
        super().log_metrics(metrics, step)
        if step == 1:
            raise ZeroDivisionError("own fault")


def test_the_failure_of_a_user_s_logger_is_shown_as_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError, match="own fault"):
        session(tmp_path, Failing([]))


def test_what_is_no_logger_is_named(tmp_path):
    message = "loggers: 3 is neither one of tensorboard, wandb, mlflow nor a Lightning Logger"
    with pytest.raises(ConfigError, match=message), opened_loggers((3,), tmp_path, Reached()):
        pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tensorbord",
            r"unknown logger 'tensorbord'; did you mean tensorboard\? The loggers are tensorboard, wandb, mlflow",
        ),
        ("neptune", "unknown logger 'neptune'; The loggers are tensorboard, wandb, mlflow"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name, message):
    with pytest.raises(ConfigError, match=message):
        check_loggers(("tensorboard", name))


@pytest.mark.parametrize(
    ("name", "packages"), [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("mlflow", "sqlalchemy and alembic")]
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, name, packages):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    present = {"mlflow": Present("mlflow/__init__.py"), "wandb": Present(None)}  # a folder that W&B left
    monkeypatch.setattr("htc.extras.find_spec", present.get)
    with pytest.raises(InstallationError) as caught:
        check_loggers((name,))
    assert str(caught.value).startswith(f"the logger {name} needs {packages}, which ")
    assert str(caught.value).endswith(f": pip install 'hybrid-task-cascade[{name}]'")


class Present:
    """A module that can be found."""

    def __init__(self, origin):
        self.origin = origin


def test_a_tracking_server_needs_no_database(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    monkeypatch.setattr("htc.extras.find_spec", {"mlflow": Present("mlflow/__init__.py")}.get)
    check_loggers(("mlflow",))
