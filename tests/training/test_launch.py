"""Starting several processes: what each is told, how they end together; slow: real trainings, also on two
"machines".
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
from functools import partial

import pytest
from lightning import Callback

from htc.errors import ConfigError, DataError, TrainingError
from htc.ranks import Ranks, here
from htc.training.events import Message
from htc.training.launch import check_can_be_sent, on_first_process, run_in_processes
from training import rank_jobs as jobs
from training.discs import write_split


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Ranks()),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, Ranks(3, 4, 1, 2)),
        (
            {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1"},
            Ranks(5, 8, 1, 4),
        ),
        (
            {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
            Ranks(),
        ),  # the batch script itself
    ],
)
def test_the_environment_says_which_process_this_is(environment, expected):
    assert here(environment) == expected
    assert expected.nodes == (2 if expected.ranks > 1 else 1)


def test_each_process_knows_which_it_is_and_the_first_one_reports(tmp_path):
    events = []
    assert run_in_processes(partial(jobs.tell_environment, tmp_path), 2, 1, events.append) == "result of 0"
    assert events == [Message("from 0")]
    first, second = ((tmp_path / name).read_text().split() for name in "01")
    assert (first[:6], second[:6]) == (["0", "2", "0", "2", "0", "127.0.0.1"], ["1", "2", "1", "2", "0", "127.0.0.1"])
    assert first[6] == second[6]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("error", DataError, "image 7 cannot be read"),
        ("killed", TrainingError, "rank 1 .* was killed by SIGKILL, probably because memory ran out"),
        ("exit", TrainingError, "rank 1 .* exit code 3"),
    ],
)
def test_one_that_fails_ends_all(how, error, message):
    begin = time.monotonic()
    with pytest.raises(error, match=message):
        run_in_processes(partial(jobs.fail, how), 2, 1, lambda _event: None)
    assert time.monotonic() - begin < 40


def test_the_error_itself_is_waited_for():
    with pytest.raises(DataError, match="image 7 cannot be read"):
        run_in_processes(jobs.report_elsewhere, 2, 1, lambda _event: None)


@pytest.mark.parametrize(("sent", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_is_passed_on_and_all_can_finish(tmp_path, sent, raised):
    def interrupt():
        while not all((tmp_path / f"begun{rank}").exists() for rank in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), sent)

    def stop(*_):
        raise SystemExit

    threading.Thread(target=interrupt).start()
    before = signal.signal(sent, signal.default_int_handler if sent == signal.SIGINT else stop)
    try:
        with pytest.raises(raised):
            run_in_processes(partial(jobs.wait_for_signal, tmp_path), 2, 1, lambda _event: None)
    finally:
        signal.signal(sent, before)
    assert all((tmp_path / f"ended{rank}").exists() for rank in (0, 1))


def test_a_listener_that_fails_ends_all(tmp_path):
    def fails(_event):
        raise ValueError("no space in the notebook")

    with pytest.raises(ValueError, match="no space"):
        run_in_processes(partial(jobs.tell_environment, tmp_path), 2, 1, fails)


def test_several_machines_need_a_place_to_meet(monkeypatch):
    monkeypatch.delenv("NODE_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"--nodes 2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK.*torchrun or srun"):
        run_in_processes(jobs.report_elsewhere, 8, 2, lambda _event: None)


def test_what_cannot_be_sent_is_named():
    class Local(Callback):
        """Not importable by another process."""

    with pytest.raises(ConfigError, match=r"not: transforms: .*; callback Local: .*devices=1"):
        check_can_be_sent({"transforms": lambda image, target: (image, target), "backbone": None}, [Local()], [])
    check_can_be_sent({"transforms": str.upper, "backbone": None}, [Callback()], ["tensorboard"])


def test_classes_of_a_notebook_cannot_be_sent(monkeypatch):
    notebook = types.ModuleType("__main__")
    own = type("Own", (Callback,), {"__module__": "__main__"})
    notebook.Own = own
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    with pytest.raises(ConfigError, match=r"callback Own: it is defined in a notebook.*define it in a module"):
        check_can_be_sent({}, [own()], [])


def test_a_script_without_a_guard_is_told_so(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "name", "htc rank 1")
    with pytest.raises(ConfigError, match="if __name__ == '__main__'"):
        run_in_processes(jobs.report_elsewhere, 2, 1, lambda _event: None)


def test_alone_the_first_is_the_only_one():
    assert on_first_process("cpu", lambda: 3) == 3


SMALL = [
    *("--preset", "htc_r18_small", "--device", "cpu", "--epochs", "1", "--batch-size", "1"),
    *("--input.short-edge", "64", "--input.long-edge", "80", "--training.augmentation.crop", "[64,64]"),
]


def data(folder):
    for name, images, seed in (("train", 4, 0), ("val", 3, 1)):
        path = write_split(folder, name, images, seed)
        (folder / "annotations").mkdir(exist_ok=True)
        path.rename(folder / "annotations" / f"instances_{name}.json")
    return ["--data", str(folder)]


def finished(out):
    assert json.loads((out / "metrics.json").read_text())["model"]["step"] == 2
    assert (out / "losses.csv").read_text().count("\n") == 3
    assert all(
        len(line.split(",")) == 3 for line in (out / "pictures.csv").read_text().splitlines()[1:]
    )  # two images a step


@pytest.mark.slow
def test_htc_train_on_two_devices(tmp_path):
    call = [
        sys.executable,
        "-m",
        "htc",
        "train",
        *data(tmp_path / "data"),
        *SMALL,
        "--out",
        str(tmp_path / "run"),
        "--devices",
        "2",
    ]
    done = subprocess.run(call, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    finished(tmp_path / "run")
    assert done.stderr.count("model: ") == 1


@pytest.mark.slow
def test_torchrun_on_two_machines_of_one_process(tmp_path):
    port = str(20000 + os.getpid() % 20000)
    arguments = ["-m", "htc", "train", *data(tmp_path / "data"), *SMALL, "--out", str(tmp_path / "run")]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--master-addr",
        "127.0.0.1",
        "--master-port",
        port,
    ]
    nodes = [
        subprocess.Popen([*torchrun, "--node-rank", str(rank), *arguments], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    errors = [node.communicate(timeout=400)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], errors
    finished(tmp_path / "run")


@pytest.mark.slow
def test_slurm_s_words(tmp_path):
    words = {
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_ID": str(10000 + os.getpid() % 9000),
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NNODES": "2",
    }
    call = [sys.executable, "-m", "htc", "train", *data(tmp_path / "data"), *SMALL, "--out", str(tmp_path / "run")]
    tasks = [
        subprocess.Popen(
            call,
            env={
                **os.environ,
                **words,
                "SLURM_NODELIST": "127.0.0.1",
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": "0",
                "SLURM_NODEID": str(rank),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [task.communicate(timeout=400)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], errors
    finished(tmp_path / "run")
