"""`precision="auto"`: bf16 where it is measured to be clearly faster, and a line that says so."""

import logging
import time
from collections.abc import Iterator
from itertools import chain, repeat

import pytest
import torch

from htc.errors import ConfigError
from htc.inference import precision as module
from htc.inference.precision import OPERATIONS, Speeds, convolution_speeds, resolve_precision

CPU = torch.device("cpu")


def never(_device: torch.device) -> Speeds:
    raise AssertionError("nothing to measure")


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        (Speeds(fp32=150, bf16=84), "fp32"),
        (Speeds(fp32=100, bf16=119), "fp32"),  # not clearly
        (Speeds(fp32=100, bf16=120), "bf16"),
        (Speeds(fp32=150, bf16=900), "bf16"),
    ],
)
def test_auto_takes_what_is_clearly_faster(speeds: Speeds, chosen: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="htc")
    assert resolve_precision("auto", CPU, lambda _: speeds) == chosen
    line = f"precision auto: {chosen} (GFLOP/s of a convolution: bf16 {speeds.bf16:.0f}, fp32 {speeds.fp32:.0f})"
    assert caplog.messages == [line]


def test_an_explicit_precision_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    assert resolve_precision("fp32", CPU, never) == "fp32"
    assert resolve_precision("bf16", CPU, lambda _: Speeds(fp32=100, bf16=100)) == "bf16"
    assert caplog.messages == []
    assert resolve_precision("bf16", "cpu", lambda _: Speeds(fp32=150, bf16=84)) == "bf16"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "slower than fp32 on this CPU" in caplog.text
    assert "bf16 84, fp32 150" in caplog.text


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="'fp16' is unknown: use one of auto, fp32, bf16"):
        resolve_precision("fp16", CPU, never)  # type: ignore[arg-type]


@pytest.mark.parametrize(("capability", "chosen"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")])
def test_cuda_by_its_tensor_cores(
    capability: tuple[int, int], chosen: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="htc")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "a GPU")
    assert resolve_precision("auto", torch.device("cuda:1"), never) == chosen
    assert f"precision auto: {chosen} (a GPU has" in caplog.text
    assert resolve_precision("bf16", torch.device("cuda:1"), never) == "bf16"
    assert ("slower" in caplog.text) == (chosen == "fp32")


def test_mps_stays_in_fp32() -> None:
    assert resolve_precision("auto", torch.device("mps"), never) == "fp32"
    assert resolve_precision("bf16", torch.device("mps"), never) == "bf16"


def clock(seconds: Iterator[float], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets each convolution take the next of these seconds; the list receives the type of each."""
    called: list[str] = []

    def timed(image: torch.Tensor, _weight: torch.Tensor, _clock: object) -> float:
        called.append(str(image.dtype))
        return next(seconds)

    monkeypatch.setattr(module, "_seconds", timed)
    return called


def test_the_median_of_alternating_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    warm_up, rounds = [1.0, 2.0], [0.1, 0.2] * 3 + [0.7, 0.9] + [0.1, 0.2] * 3
    called = clock(chain(warm_up, rounds), monkeypatch)
    found = convolution_speeds(CPU)
    assert found == pytest.approx((OPERATIONS / 0.1 / 1e9, OPERATIONS / 0.2 / 1e9))
    assert called == ["torch.float32", "torch.bfloat16"] * 8


def test_a_hopeless_bf16_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    called = clock(chain([0.1, 2.0], repeat(9.0)), monkeypatch)
    found = convolution_speeds(CPU)
    assert len(called) == 2
    assert found.fp32 == pytest.approx(20 * found.bf16)


def test_a_real_measurement_is_short() -> None:
    convolution_speeds(CPU)  # loads the kernels
    start = time.process_time()  # other processes do not count
    found = convolution_speeds(CPU)
    assert time.process_time() - start < 3  # 1.2 on a slow machine
    assert 0 < found.bf16 < 1e6
    assert 0 < found.fp32 < 1e6
