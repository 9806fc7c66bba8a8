"""Images at URLs: fetched from a server on loopback that is slow, cut, redirects, or sends something else."""

import io
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from checkpoint.weights_server import Behaviour, serve
from htc.data import remote_images
from htc.data.images import is_url, read_image
from htc.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTC_OFFLINE", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def refused(behaviour: Behaviour, *texts: str, path: str = "/a/street.png") -> None:
    with serve(behaviour) as address, pytest.raises(DataError) as caught:
        read_image(address + path)
    assert f"{address}{path}: no image could be fetched: " in str(caught.value)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize("content_type", ["", "image/png", "application/octet-stream", "image/webp; charset=binary"])
@pytest.mark.parametrize("length_known", [True, False])
def test_an_image_is_fetched(content_type: str, length_known: bool) -> None:
    behaviour = Behaviour(png(), content_type=content_type, length_known=length_known)
    with serve(behaviour) as address:
        assert np.array_equal(read_image(f"{address}/a/street.png?size=large"), PIXELS)
    assert behaviour.requests == [("/a/street.png?size=large", None)]


def test_a_redirect_is_followed() -> None:
    with serve(Behaviour(png())) as target, serve(Behaviour(b"", redirect=f"{target}/elsewhere/b.png")) as address:
        assert np.array_equal(read_image(f"{address}/a.png"), PIXELS)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a.png", "data:image/png;base64,AAAA"])
def test_a_redirect_to_another_scheme_is_refused(target: str) -> None:
    behaviour = Behaviour(png(), redirect=target)
    refused(behaviour, target, "not https; refused" if target.startswith("ftp") else "is not allowed")
    assert len(behaviour.requests) == 1


def test_redirects_without_end() -> None:
    behaviour = Behaviour(b"")
    with serve(behaviour) as address:
        behaviour.redirect = f"{address}/again.png"
        with pytest.raises(DataError, match="HTTP 302"):
            read_image(f"{address}/a.png")
    assert len(behaviour.requests) < 15


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        (Behaviour(b"<html>", content_type="text/html; charset=utf-8"), "its content is text/html"),
        (Behaviour(b"", statuses=[404]), "HTTP 404 Not Found"),
        (Behaviour(b"", statuses=[500]), "HTTP 500"),
    ],
)
def test_a_page_or_an_error_is_no_image(behaviour: Behaviour, text: str) -> None:
    refused(replace(behaviour, statuses=list(behaviour.statuses)), text)


def test_another_file_with_the_type_of_an_image_is_named() -> None:
    behaviour = Behaviour(b"no image at all", content_type="image/png")
    with serve(behaviour) as address, pytest.raises(DataError, match=rf"^{address}/a\.png is not an image"):
        read_image(f"{address}/a.png")


@pytest.mark.parametrize("bytes_sent", [0, 40])
def test_a_cut_connection(bytes_sent: int) -> None:
    refused(Behaviour(png(), cut_after=[bytes_sent]), f"interrupted after {bytes_sent} of {len(png())} bytes")


def test_a_cut_image_without_length_is_damaged() -> None:
    behaviour = Behaviour(png(), cut_after=[200], length_known=False)
    with serve(behaviour) as address, pytest.raises(DataError, match="damaged or incomplete"):
        read_image(f"{address}/a.png")


@pytest.mark.parametrize("length_known", [True, False])
def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch, length_known: bool) -> None:
    monkeypatch.setattr(remote_images, "LARGEST", 1 << 20)
    refused(Behaviour(bytes(3 << 20), length_known=length_known), "larger than 1 MiB")


@pytest.mark.parametrize("behaviour", [Behaviour(b"", delay=3.0), Behaviour(bytes(1000), drip=0.1)])
def test_a_slow_server(monkeypatch: pytest.MonkeyPatch, behaviour: Behaviour) -> None:
    monkeypatch.setattr(remote_images, "SECONDS", 0.5)
    begin = time.monotonic()
    with serve(replace(behaviour, cut_after=[20] if behaviour.drip else [])) as address:
        with pytest.raises(DataError, match=r"within 0.5 seconds|too slow|timed out"):
            read_image(f"{address}/a.png")
        assert time.monotonic() - begin < 2.5


def test_no_server_at_all() -> None:
    with serve(Behaviour(b"")) as address:
        pass
    with pytest.raises(DataError, match=rf"^{address}/a\.png: no image could be fetched: .*refused"):
        read_image(f"{address}/a.png")


@pytest.mark.parametrize("variable", ["HTC_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    behaviour = Behaviour(png())
    with serve(behaviour) as address, pytest.raises(DataError, match=r"/a\.png: not fetched.*HTC_OFFLINE"):
        read_image(f"{address}/a.png")
    assert behaviour.requests == []


@pytest.mark.parametrize(
    "url", ["s3://bucket/a.jpg", "ftp://host/a.jpg", "file:///etc/hostname", "gs://b/a.png", "hf://datasets/a/b.png"]
)
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(DataError, match="only http and https URLs are fetched") as caught:
        read_image(url)
    assert str(caught.value).startswith(f"{url}: ")


@pytest.mark.parametrize("url", ["https:///a.jpg", "http://", "https://exa mple.org/a.jpg", "http://host:port/a.jpg"])
def test_urls_that_are_wrong(url: str) -> None:
    with pytest.raises(DataError) as caught:
        read_image(url)
    assert url in str(caught.value)


def test_paths_are_no_urls() -> None:
    assert not any(map(is_url, ("a.jpg", "C:/a.jpg", "C://a.jpg", "a://", "/x/http://a", 3, None)))
