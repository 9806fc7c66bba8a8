"""Released weights, from a real server on loopback: whole and right, or an error and nothing under the final name."""

import hashlib
import io
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path

import pytest

from checkpoint.historical import as_v2, random_state, save_v2, tiny_config
from checkpoint.weights_server import Behaviour, serve
from htc import presets
from htc.checkpoint import download
from htc.checkpoint.download import FetchError
from htc.checkpoint.load import load_model
from htc.checkpoint.zoo import RELEASED, Release, cached, fetch, weights_url
from htc.errors import CheckpointError, ConfigError, OutputError
from htc.network import HttpsStaysHttps, RefusedRedirectError
from htc.presets import PRESETS

NAME = "tiny_net"
CONTENT = bytes(range(256)) * 4000


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("HTC_OFFLINE", "HF_HUB_OFFLINE", "HTC_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HTC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_PAUSE", 0.0)


@pytest.fixture
def behaviour(monkeypatch: pytest.MonkeyPatch) -> Iterator[Behaviour]:
    """A server with the weights of one preset, and that preset in the table."""
    release(monkeypatch, CONTENT)
    server = Behaviour(CONTENT)
    with serve(server) as address:
        monkeypatch.setenv("HTC_MIRROR", address)
        yield server


def release(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()[:8]
    monkeypatch.setitem(RELEASED, NAME, Release(f"net/{NAME}/{NAME}-{digest}.pth", digest, 1.0, 1.0))


def part() -> Path:
    return cached(NAME).with_name(cached(NAME).name + ".part")


def test_a_download_and_then_the_cache(behaviour: Behaviour) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(NAME, progress=lambda done, total: seen.append((done, total)))
    assert path == cached(NAME)
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert not part().exists()
    assert fetch(NAME) == path
    assert len(behaviour.requests) == 1


@pytest.mark.parametrize("length_known", [True, False])
def test_an_earlier_part_is_continued(behaviour: Behaviour, length_known: bool) -> None:
    behaviour.length_known = length_known
    part().parent.mkdir(parents=True)
    part().write_bytes(CONTENT[:1000])
    assert fetch(NAME).read_bytes() == CONTENT
    assert [wanted for _, wanted in behaviour.requests] == ["bytes=1000-"]


def test_a_server_that_ignores_ranges_starts_again(behaviour: Behaviour) -> None:
    behaviour.honours_range = False
    part().parent.mkdir(parents=True)
    part().write_bytes(CONTENT[:1000])
    assert fetch(NAME).read_bytes() == CONTENT


def test_a_complete_part_needs_no_more_bytes(behaviour: Behaviour) -> None:
    part().parent.mkdir(parents=True)
    part().write_bytes(CONTENT)
    assert fetch(NAME).read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [b"x" * 1000, b"x" * (len(CONTENT) + 5)])
def test_a_wrong_part_is_thrown_away_and_fetched_anew(behaviour: Behaviour, wrong: bytes) -> None:
    part().parent.mkdir(parents=True)
    part().write_bytes(wrong)
    assert fetch(NAME).read_bytes() == CONTENT


def test_cut_connections_are_continued(behaviour: Behaviour) -> None:
    behaviour.cut_after = [300_000, 100_000]
    assert fetch(NAME).read_bytes() == CONTENT
    assert [wanted for _, wanted in behaviour.requests] == [None, "bytes=300000-", "bytes=400000-"]


def test_a_connection_cut_for_good_keeps_the_part_for_the_next_call(behaviour: Behaviour) -> None:
    behaviour.cut_after = [5000] + [0] * 20
    with pytest.raises(FetchError, match="interrupted after 5000 bytes"):
        fetch(NAME)
    assert not cached(NAME).exists()
    assert part().stat().st_size == 5000
    behaviour.cut_after = []
    assert fetch(NAME).read_bytes() == CONTENT
    assert behaviour.requests[-1][1] == "bytes=5000-"


def test_a_wrong_hash_leaves_nothing(behaviour: Behaviour) -> None:
    behaviour.content = b"something else"
    with pytest.raises(FetchError, match="not the published file"):
        fetch(NAME)
    assert not cached(NAME).exists()
    assert not part().exists()


@pytest.mark.parametrize("status", [403, 404, 410])
def test_not_found_is_final(behaviour: Behaviour, status: int) -> None:
    behaviour.statuses = [status]
    with pytest.raises(FetchError, match=f"HTTP {status}"):
        fetch(NAME)
    assert len(behaviour.requests) == 1
    assert not cached(NAME).exists()


def test_a_busy_server_is_asked_again(behaviour: Behaviour) -> None:
    behaviour.statuses = [503, 500]
    assert fetch(NAME).read_bytes() == CONTENT


def test_a_redirect_elsewhere_is_followed_and_its_bytes_are_checked(behaviour: Behaviour) -> None:
    other = Behaviour(CONTENT)
    with serve(other) as address:
        behaviour.redirect = f"{address}/elsewhere/file.pth"
        assert fetch(NAME).read_bytes() == CONTENT
        assert other.requests[0][0] == "/elsewhere/file.pth"
        cached(NAME).unlink()
        other.content = b"an intruder's file"
        with pytest.raises(FetchError, match="not the published file"):
            fetch(NAME)
    assert not cached(NAME).exists()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_to_other_protocols_are_refused(behaviour: Behaviour, target: str) -> None:
    behaviour.redirect = target
    with pytest.raises(FetchError):
        fetch(NAME)
    assert not cached(NAME).exists()


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [("https", "http", False), ("https", "https", True), ("http", "https", True), ("http", "http", True)],
)
def test_https_is_never_left_for_plain_http(before: str, after: str, allowed: bool) -> None:
    request = urllib.request.Request(f"{before}://here/a.pth")

    def redirect() -> object:
        return HttpsStaysHttps().redirect_request(request, io.BytesIO(), 302, "", Message(), f"{after}://there/a.pth")

    if allowed:
        followed = redirect()
        assert followed is not None
        assert followed.full_url == f"{after}://there/a.pth"
    else:
        with pytest.raises(RefusedRedirectError, match="not https"):
            redirect()


def test_endless_redirects_end(behaviour: Behaviour) -> None:
    behaviour.redirect = "/again"
    with pytest.raises(FetchError):
        fetch(NAME)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    release(monkeypatch, CONTENT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HTC_MIRROR", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(FetchError, match="unreachable"):
            fetch(NAME)


@pytest.mark.parametrize("variable", ["HTC_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody_and_says_what_to_put_where(
    behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(FetchError, match="offline") as caught:
        fetch(NAME)
    assert str(cached(NAME)) in str(caught.value)
    assert str(weights_url(NAME)) in str(caught.value)
    cached(NAME).parent.mkdir(parents=True)
    cached(NAME).write_bytes(CONTENT)
    assert fetch(NAME) == cached(NAME)
    assert behaviour.requests == []
    cached(NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(FetchError, match="damaged"):
        fetch(NAME)


def test_a_damaged_cache_is_fetched_anew(behaviour: Behaviour) -> None:
    cached(NAME).parent.mkdir(parents=True)
    cached(NAME).write_bytes(b"rotten")
    assert fetch(NAME).read_bytes() == CONTENT


def test_two_callers_fetch_once(behaviour: Behaviour) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: fetch(NAME), range(2)))
    assert paths[0] == paths[1]
    assert len(behaviour.requests) == 1


def test_two_processes_fetch_once(behaviour: Behaviour) -> None:
    digest = hashlib.sha256(CONTENT).hexdigest()
    code = (
        "import sys; from pathlib import Path; from htc.checkpoint.download import download; "
        "print(download(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))"
    )
    call = [sys.executable, "-c", code, str(weights_url(NAME)), str(cached(NAME)), digest]
    behaviour.delay = 0.5
    running = [subprocess.Popen(call, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in running] == [str(cached(NAME))] * 2
    assert cached(NAME).read_bytes() == CONTENT
    assert len(behaviour.requests) == 1
    assert not part().exists()


def test_nothing_has_the_final_name_before_all_is_there(behaviour: Behaviour) -> None:
    behaviour.cut_after = [300_000]
    there: list[bool] = []
    fetch(NAME, progress=lambda *_: there.append(cached(NAME).exists()))
    assert there
    assert not any(there)


def test_progress_counts_the_earlier_part_and_may_stop_the_download(behaviour: Behaviour) -> None:
    part().parent.mkdir(parents=True)
    part().write_bytes(CONTENT[:1000])
    seen: list[tuple[int, int | None]] = []
    fetch(NAME, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(len(CONTENT), len(CONTENT))]
    cached(NAME).unlink()

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, progress=interrupt)
    assert not cached(NAME).exists()
    assert fetch(NAME).read_bytes() == CONTENT


def test_a_cache_that_may_only_be_read(behaviour: Behaviour) -> None:
    cached(NAME).parent.mkdir(parents=True)
    cached(NAME).write_bytes(CONTENT)
    assert fetch(NAME) == cached(NAME)
    assert [path.name for path in cached(NAME).parent.iterdir()] == [cached(NAME).name]  # no lock was made


@pytest.mark.parametrize(
    "mirror", ["mirror.local/weights", "https://", "gopher://127.0.0.1/x", "http://127.0.0.1:port"]
)
def test_a_mirror_that_is_no_address(monkeypatch: pytest.MonkeyPatch, mirror: str) -> None:
    release(monkeypatch, CONTENT)
    monkeypatch.setenv("HTC_MIRROR", mirror)
    with pytest.raises(FetchError, match=NAME):
        fetch(NAME)


def test_a_disk_without_room_is_not_the_servers_fault(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=f"{len(CONTENT)} bytes are needed; free disk space"):
        fetch(NAME)
    assert not cached(NAME).exists()


def test_a_cache_that_is_a_file(behaviour: Behaviour, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(OutputError, match="HTC_CACHE"):
        fetch(NAME)


def test_a_preset_loads_its_released_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tiny_config().replace(preset=NAME)
    content = save_v2(tmp_path / "a.pth", as_v2(random_state(config))).read_bytes()
    monkeypatch.setitem(presets.PRESETS, NAME, lambda: config)
    release(monkeypatch, content)
    with serve(Behaviour(content)) as address:
        monkeypatch.setenv("HTC_MIRROR", address)
        assert load_model(NAME).config == config
        assert load_model(NAME, NAME).source == cached(NAME)


def test_the_table_names_presets_and_their_files() -> None:
    assert set(RELEASED) <= set(PRESETS)
    assert len(RELEASED) == 17
    for name, release_ in RELEASED.items():
        assert release_.path.endswith(f"{name}/{Path(release_.path).name}")
        assert release_.path.endswith(f"-{release_.sha256}.pth")
        assert 30 < release_.mask_ap < release_.box_ap < 60
    expected = "https://download.openmmlab.com/mmdetection/v2.0/htc/htc_r50_fpn_1x_coco/htc_r50_fpn_1x_coco_20200317-7332cf16.pth"
    assert weights_url("htc_r50_fpn_1x_coco") == expected
    assert weights_url("htc_r18_small") is None


def test_presets_without_released_weights() -> None:
    with pytest.raises(ConfigError, match="no released weights"):
        fetch("htc_r18_small")
    with pytest.raises(ConfigError, match="no preset"):
        fetch("nothing")
    assert issubclass(FetchError, CheckpointError)
