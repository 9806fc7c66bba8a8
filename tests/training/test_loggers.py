"""What a training logs to TensorBoard, W&B and MLflow, all offline: each step once, also after an interruption."""

import csv
import json
import os
import sqlite3
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import wandb
from lightning import Callback
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from htc.data.coco import Splits
from htc.errors import ConfigError, OutputError
from htc.training.checkpoints import Every
from htc.training.events import Message
from htc.training.loggers import Reached, check_loggers, opened_loggers, read_record
from htc.training.metric_log import MetricLog
from htc.training.record import steps_recorded
from htc.training.run import Options, run_training
from training.discs import write_split
from training.tiny import tiny

pytestmark = pytest.mark.slow  # whole trainings with each logger; test_metric_log.py is the fast part
STEPS = 6
OPTIONS = Options(device="cpu", images=0, validation_losses=False)


class Interruption(Callback):
    """Ends the training before a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return Splits(
        write_split(folder, "train", 5, 0), folder / "train", write_split(folder, "val", 2, 1), folder / "val"
    )


@pytest.fixture(scope="module")
def logged(splits, tmp_path_factory):
    """The folder and the notes of a training of two epochs of three steps with every logger.

    It is interrupted after two steps and again after five, and resumed from the start and from the end of an epoch.
    """
    folder = tmp_path_factory.mktemp("runs") / "fruit"
    notes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        three = replace(OPTIONS, loggers=("tensorboard", "wandb", "mlflow"), checkpoints=Every(seconds=1e6))
        for resume, interrupted in ((False, 2), (True, 5), (True, None)):
            callbacks = () if interrupted is None else (Interruption(interrupted),)
            options = replace(three, resume=resume, callbacks=callbacks)
            if interrupted is None:
                run_training(tiny(), splits, folder, options, notes.append)
            else:
                with pytest.raises(KeyboardInterrupt):
                    run_training(tiny(), splits, folder, options)
        assert not list(Path().iterdir()), "something was written outside the run folder"
        assert "MLFLOW_TRACKING_URI" not in os.environ
        assert wandb.run is None
    return folder, [one.line for one in notes if isinstance(one, Message)]


def losses(folder):
    """Rows of losses.csv by step, with the names of the loggers."""
    with (folder / "losses.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        int(row.pop("step")): {
            name if name == "learning_rate" else f"train/{name}": float(value)
            for name, value in row.items()
            if name != "epoch"
        }
        for row in rows
    }


def evaluations(folder):
    """Rows of validation.csv by the last step before the evaluation, with the names of the loggers."""
    with (folder / "validation.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        int(row["step"]) - 1: {
            name.replace(".", "/", 1): float(value) for name, value in row.items() if name not in ("step", "epoch")
        }
        for row in rows
    }


def points(folder):
    """(name, step) -> value of everything that is to be logged."""
    return {
        (name, step): value
        for rows in (losses(folder), evaluations(folder))
        for step, row in rows.items()
        for name, value in row.items()
    }


def test_the_run_was_interrupted_where_it_should(logged):
    folder, _ = logged
    assert sorted(losses(folder)) == list(range(STEPS))
    assert sorted(evaluations(folder)) == [2, 5]


def test_tensorboard_shows_each_step_once(logged):
    folder, notes = logged
    events = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=True).Reload()
    found = [(name, one.step, one.value) for name in events.Tags()["scalars"] for one in events.Scalars(name)]
    assert len(found) == len(points(folder))
    assert {(name, step): value for name, step, value in found} == pytest.approx(points(folder), rel=1e-6)
    assert len(list((folder / "tensorboard").glob("events.*"))) == 3
    assert f"TensorBoard: tensorboard --logdir {folder / 'tensorboard'}" in notes


def test_tensorboard_has_the_hyperparameters(logged):
    events = EventAccumulator(str(logged[0] / "tensorboard")).Reload()
    assert events.PluginTagToContent("hparams").keys() >= {"_hparams_/session_start_info", "_hparams_/experiment"}
    text = (logged[0] / "tensorboard/hparams.yaml").read_text()
    assert "training.epochs: 2" in text
    assert "seed: 0" in text


def offline_records(folder):
    """The records of W&B's offline files, in order of time: a LevelDB log of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        content, position, parts = path.read_bytes(), 7, b""
        while position + 7 <= len(content):
            if 32768 - position % 32768 < 7:
                position += 32768 - position % 32768
                continue
            _, length, kind = struct.unpack_from("<IHB", content, position)
            parts += content[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # full, last
                yield Record.FromString(parts)
                parts = b""


def test_wandb_has_each_step_once_in_one_run(logged):
    folder, notes = logged
    stored = read_record(folder)["wandb"]
    files = sorted((folder / "wandb").glob("offline-run-*"))
    assert [path.name.rpartition("-")[2] for path in files] == [stored.run] * 3
    assert f"W&B: wandb sync {files[-1]}" in notes
    found, config, named = [], {}, set()
    for record in offline_records(folder):
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        found += [
            (name, row["trainer/global_step"], value)
            for name, value in row.items()
            if not name.startswith(("_", "trainer/"))
        ]
        config |= {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.config.update}
        config |= {
            item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.run.config.update
        }
        if record.run.run_id:
            named.add((record.run.project, record.run.display_name, record.run.run_id))
    assert len(found) == len(points(folder))
    assert {(name, step): value for name, step, value in found} == points(folder)
    assert (config["training.epochs"], config["seed"]) == (2, 0)
    assert named == {("htc", "fruit", stored.run)}


def test_mlflow_has_each_step_once_in_one_run(logged):
    folder, notes = logged
    uri = f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("htc").experiment_id])
    assert (run.info.run_id, run.info.run_name) == (read_record(folder)["mlflow"].run, "fruit")
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith(f"file://{folder}/")
    found = [
        (name, one.step, one.value)
        for name in run.data.metrics
        for one in client.get_metric_history(run.info.run_id, name)
    ]
    assert len(found) == len(points(folder))
    renamed = {(name.replace("@", "_at_"), step): value for (name, step), value in points(folder).items()}
    assert {(name, step): value for name, step, value in found} == renamed
    assert (run.data.params["training.epochs"], run.data.params["seed"]) == ("2", "0")
    assert f"MLflow: run {run.info.run_id} of experiment htc in {uri}" in notes


@pytest.fixture
def offline(monkeypatch):
    """Nothing is sent, and W&B reads its settings anew."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    wandb.teardown()
    yield monkeypatch
    wandb.teardown()


def test_without_an_account_of_wandb_the_remedy_is_named(offline, tmp_path):
    offline.setenv("WANDB_MODE", "online")
    offline.setenv("NETRC", str(tmp_path / "none"))
    offline.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"no account here: run `wandb login`, or set WANDB_MODE=offline"):
        check_loggers(("wandb",))


def test_an_open_run_of_wandb_is_taken_and_left_open(offline, tmp_path):
    """As in a sweep, whose agent opens the run."""
    own = wandb.init(project="sweeps", dir=tmp_path, settings=wandb.Settings(silent=True))
    with opened_loggers(("wandb",), tmp_path, Reached()) as (opened,):
        opened.logger.log_metrics({"segm/AP": 0.5}, 3)
        assert opened.logged.run == own.id
    assert wandb.run is own
    own.finish()


@pytest.mark.parametrize(("ended", "steps"), [(True, 8), (False, 2)])
def test_after_a_kill_wandb_receives_again_what_it_may_have_lost(offline, tmp_path, ended, steps):
    """It buffers; MLflow does not."""
    entry = {"run": "abc", "steps": 2, "evaluated": 0, "active": True, "ended": ended}
    with opened_loggers(("mlflow",), tmp_path, Reached()) as (opened,):
        other = {**entry, "run": opened.logged.run}
    (tmp_path / "loggers.json").write_text(json.dumps({"wandb": entry, "mlflow": other}))
    with opened_loggers(("wandb", "mlflow"), tmp_path, Reached(8, 6, 5)) as (first, second):
        assert (first.logged.run, first.logged.steps, second.logged.steps) == ("abc", steps, 8)
        assert not any(one.ended for one in read_record(tmp_path).values())
    assert all(one.ended for one in read_record(tmp_path).values())


def test_mlflow_takes_its_tracking_uri_from_the_environment(offline, tmp_path):
    uri = f"sqlite:///{tmp_path}/elsewhere.db"
    offline.setenv("MLFLOW_TRACKING_URI", uri)
    run = tmp_path / "run"
    run.mkdir()
    with opened_loggers(("mlflow",), run, Reached()) as (opened,):
        opened.logger.log_metrics({"segm/AP": 0.5}, 3)
    assert os.environ["MLFLOW_TRACKING_URI"] == uri
    assert MlflowClient(uri).get_run(opened.logged.run).data.metrics == {"segm/AP": 0.5}
    assert not (run / "mlflow.db").exists()


def test_a_run_that_mlflow_has_no_more_is_named_with_its_record(offline, tmp_path):
    (tmp_path / "loggers.json").write_text(json.dumps({"mlflow": {"run": "0123"}}))
    message = r"the logger mlflow cannot be opened \(its run 0123 is named in .*loggers\.json\): .*0123"
    with pytest.raises(OutputError, match=message), opened_loggers(("mlflow",), tmp_path, Reached(resumed=1)):
        pass


def test_tensorboard_that_cannot_write_is_named(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    message = "the logger tensorboard cannot be opened: .*tensorboard"
    with pytest.raises(OutputError, match=message), opened_loggers(("tensorboard",), tmp_path, Reached()):
        pass


def test_a_database_that_fails_in_the_training_is_named(offline, splits, tmp_path):
    class Removes(Callback):
        def on_train_start(self, *_):
            with sqlite3.connect(tmp_path / "run/mlflow.db") as database:
                database.execute("DROP TABLE metrics")

    options = replace(OPTIONS, loggers=("mlflow",), callbacks=(Removes(),))
    with pytest.raises(
        OutputError, match=r"the logger mlflow failed: .*metrics.* Resume the training, with it or with"
    ):
        run_training(tiny(epochs=1), splits, tmp_path / "run", options)


def test_class_names_that_mlflow_refuses_stay_apart(offline, tmp_path):
    values = {"per_class/狗.segm": 0.25, "per_class/猫.segm": 0.5, "per_class/a//b c.segm": 0.75, "segm/AR@100": 1.0}
    with opened_loggers(("mlflow",), tmp_path, Reached()) as opened:
        MetricLog(tmp_path, opened)._log(values, 0, opened)
    stored = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(opened[0].logged.run).data.metrics
    assert stored == {
        "per_class/u72d7.segm": 0.25,
        "per_class/u732b.segm": 0.5,
        "per_class/au002fu002fb c.segm": 0.75,
        "segm/AR_at_100": 1.0,
    }


class Order(Callback):
    """Counts the rows that the record holds when it is called, and keeps a state."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = []

    def on_train_batch_end(self, *_):
        self.rows.append(steps_recorded(self.folder / "losses.csv"))

    def state_dict(self):
        return {"rows": self.rows}

    def load_state_dict(self, state_dict):
        self.rows = state_dict["rows"]


def test_a_user_s_callback_is_called_after_ours_and_resumed(splits, tmp_path):
    folder = tmp_path / "run"
    run_training(tiny(epochs=1), splits, folder, replace(OPTIONS, callbacks=(Order(folder),)))
    again = Order(folder)
    run_training(tiny(epochs=2), splits, folder, replace(OPTIONS, callbacks=(again,), resume=True))
    assert again.rows == list(range(1, STEPS + 1))


def test_without_loggers_no_record_is_left(splits, tmp_path):
    folder = tmp_path / "run"
    run_training(tiny(epochs=1), splits, folder, OPTIONS)
    assert not {"loggers.json", "tensorboard", "lightning_logs"} & {path.name for path in folder.iterdir()}
