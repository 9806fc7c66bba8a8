"""Which values of images of more than 8 bits become 0 and 255."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.image_files import write_tiff
from htc.config import BitDepth, FixedRange, Input, Intensity, Percentiles, TypeRange
from htc.data.image_headers import image_header
from htc.data.images import read_image
from htc.errors import ConfigError, DataError

RAMP = np.linspace(0, 4095, 200).round().astype(np.uint16).reshape(10, 20)
FLOATS = np.linspace(-1, 3, 200, dtype=np.float32).reshape(10, 20)


def read(path: Path, values: np.ndarray, intensity: Intensity) -> np.ndarray:
    """The first channel of a file with these values."""
    Image.fromarray(values).save(path)
    return read_image(path, intensity=intensity)[:, :, 0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(
    ("intensity", "low", "high"),
    [
        (TypeRange(), 0, 65535),
        (BitDepth(), 0, 4095),
        (FixedRange(low=0, high=2000), 0, 2000),
        (Percentiles(low=0, high=100), 0, 4095),
        (Percentiles(low=10, high=90), *np.percentile(RAMP, (10, 90))),
    ],
)
def test_sixteen_bits(tmp_path: Path, suffix: str, intensity: Intensity, low: float, high: float) -> None:
    found = read(tmp_path / f"a.{suffix}", RAMP, intensity)
    expected = ((RAMP - low) * (255 / (high - low))).clip(0, 255)
    assert np.abs(found - expected).max() <= 0.51
    assert np.array_equal(read_image(RAMP, intensity=intensity)[:, :, 1], found)


def test_the_type_is_the_default_and_all_images_share_it(tmp_path: Path) -> None:
    dark, bright = (read(tmp_path / "a.png", values, TypeRange()) for values in (RAMP, RAMP * 4))
    assert dark.max() == 16
    assert bright.max() == 64
    assert np.array_equal(read_image(tmp_path / "a.png")[:, :, 0], bright)


@pytest.mark.parametrize("intensity", [FixedRange(low=-1, high=3), Percentiles(low=0, high=100)])
def test_floats_with_a_range(tmp_path: Path, intensity: Intensity) -> None:
    found = read(tmp_path / "a.tif", FLOATS, intensity)
    assert np.abs(found - (FLOATS + 1) * 255 / 4).max() <= 0.51
    assert image_header(tmp_path / "a.tif").floating
    assert np.array_equal(read_image(FLOATS, intensity=intensity)[:, :, 2], found)


@pytest.mark.parametrize("intensity", [TypeRange(), BitDepth()])
def test_floats_without_a_range_name_the_remedy(tmp_path: Path, intensity: Intensity) -> None:
    with pytest.raises(DataError, match=r"a\.tif has floating-point values.*convert it.*--percentile 0\.1,99\.9"):
        read(tmp_path / "a.tif", FLOATS, intensity)


def test_values_that_are_no_numbers_are_black(tmp_path: Path) -> None:
    values = FLOATS.copy()
    values[0, :3] = np.nan, np.inf, -np.inf
    found = read(tmp_path / "a.tif", values, Percentiles(low=0, high=100))
    assert found[0, :3].tolist() == [0, 255, 0]
    assert found.max() == 255
    assert not read(tmp_path / "a.tif", np.full((3, 4), np.nan, np.float32), Percentiles()).any()


def test_an_image_of_one_value_is_black(tmp_path: Path) -> None:
    assert not read(tmp_path / "a.tif", np.full((3, 4), 7.0, np.float32), Percentiles()).any()


def test_32_bit_integers_need_a_range(tmp_path: Path) -> None:
    values = np.array([[0, 100_000], [50_000, 200_000]], np.int32)
    with pytest.raises(DataError, match=r"32-bit values \(0 to 200000\).*--percentile"):
        read(tmp_path / "a.tif", values, TypeRange())
    assert read(tmp_path / "a.tif", values, Percentiles(low=0, high=100)).tolist() == [[0, 128], [64, 255]]


def test_color_channels_share_their_percentiles(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(100, 900, (9, 8, 3)).astype(np.uint16)
    write_tiff(tmp_path / "a.tif", (values, {}))
    found = read_image(tmp_path / "a.tif", intensity=Percentiles(low=0, high=100))
    low, high = values.min(), values.max()
    assert np.abs(found - (values - low) * (255 / (high - low))).max() <= 0.51


@pytest.mark.parametrize("intensity", [TypeRange(), BitDepth(), Percentiles(), FixedRange()])
def test_8_bits_are_never_changed(tmp_path: Path, intensity: Intensity) -> None:
    pixels = np.random.default_rng(0).integers(50, 90, (12, 17, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", intensity=intensity), pixels)
    assert np.array_equal(read_image(pixels, intensity=intensity), pixels)


def test_the_configuration_has_the_range_and_checks_it() -> None:
    assert Input().intensity == TypeRange()
    changed = Input().replace(intensity={"kind": "percentile", "low": 1.0})
    assert changed.intensity == Percentiles(low=1.0, high=99.9)
    assert Input.model_validate_json(changed.model_dump_json()) == changed
    for wrong in ({"kind": "percentile", "low": 50, "high": 20}, {"kind": "percentile", "high": 101}, {"kind": "max"}):
        with pytest.raises(ConfigError, match="intensity"):
            Input().replace(intensity=wrong)


def test_weights_from_before_this_field_keep_their_rule() -> None:
    text = Input().model_dump_json(exclude={"intensity"})
    assert Input.model_validate_json(text).intensity == BitDepth()
