"""Starting several processes: what each is told, how they end together; slow: real trainings, also on two
"machines".
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from htc.errors import ConfigError
from htc.ranks import Ranks, here
from htc.training.launch import on_first_process, start_together
from training.discs import write_split


def script(text):
    return [sys.executable, "-S", "-c", f"import os, signal, sys, time\n{text}"]


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


def test_each_process_is_told_which_it_is(tmp_path):
    names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT"
    assert (
        start_together(
            2,
            1,
            script(
                f"open(r'{tmp_path}/' + os.environ['RANK'], 'w').write(' '.join(os.environ[n] for n in "
                f"'{names}'.split()))"
            ),
        )
        == 0
    )
    first, second = ((tmp_path / name).read_text().split() for name in "01")
    assert (first[:5], second[:5]) == (["0", "2", "0", "2", "127.0.0.1"], ["1", "2", "1", "2", "127.0.0.1"])
    assert first[5] == second[5]


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(2)", 2), ("os.kill(os.getpid(), signal.SIGKILL)", 137)])
def test_one_that_fails_ends_all(ending, code):
    begin = time.monotonic()
    assert start_together(2, 1, script(f"{ending} if os.environ['RANK'] == '1' else time.sleep(60)")) == code
    assert time.monotonic() - begin < 30


def test_an_interruption_is_passed_on_and_waited_for(tmp_path):
    text = f"""
def end(*_):
    open(r'{tmp_path}/ended' + os.environ['RANK'], 'w')
    sys.exit(130)
signal.signal(signal.SIGINT, end)
open(r'{tmp_path}/begun' + os.environ['RANK'], 'w')
time.sleep(60)
"""

    def interrupt():
        while not all((tmp_path / f"begun{rank}").exists() for rank in (0, 1)):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            start_together(2, 1, script(text))
    finally:
        signal.signal(signal.SIGINT, before)
    assert all((tmp_path / f"ended{rank}").exists() for rank in (0, 1))


def test_several_machines_need_a_place_to_meet(monkeypatch):
    monkeypatch.delenv("NODE_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"--nodes 2 needs MASTER_ADDR, MASTER_PORT, NODE_RANK.*torchrun or srun"):
        start_together(8, 2)


def test_alone_the_first_is_the_only_one():
    assert on_first_process("cpu", lambda: 3) == 3


SMALL = [
    *("--preset", "htc_r18_small", "--device", "cpu", "--epochs", "1", "--batch-size", "1"),
    *("--input.short-edge", "64", "--input.long-edge", "80", "--training.augmentation.crop", "[64,64]"),
]


def data(folder):
    for name, pictures, seed in (("train", 4, 0), ("val", 3, 1)):
        path = write_split(folder, name, pictures, seed)
        (folder / "annotations").mkdir(exist_ok=True)
        path.rename(folder / "annotations" / f"instances_{name}.json")
    return ["--data", str(folder)]


def finished(out):
    assert json.loads((out / "metrics.json").read_text())["model"]["step"] == 2
    assert (out / "losses.csv").read_text().count("\n") == 3
    assert all(
        len(line.split(",")) == 3 for line in (out / "pictures.csv").read_text().splitlines()[1:]
    )  # two pictures a step


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
    assert done.stderr.count("the model is in") == 1


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
