"""Resumable downloads: the target is either a complete file with a verified hash, or does not exist."""

import hashlib
import http.client
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from filelock import FileLock

from htc.errors import CheckpointError, OutputError
from htc.network import USER_AGENT, HttpsStaysHttps, RefusedRedirectError, offline

DownloadProgress = Callable[[int, int | None], object]

_CHUNK = 1 << 20
_TIMEOUT = 30.0
_ATTEMPTS = 4
_PAUSE = 0.5  # seconds, doubled after each failure
_LARGEST = 8 << 30
_UNSATISFIABLE = 416


class FetchError(CheckpointError):
    """Weights could not be downloaded: offline, not found, interrupted, or not the published file."""


class _CutError(Exception):
    """The connection ended before the file was complete; another attempt can resume from here."""


def download(url: str, target: Path, sha256: str, progress: DownloadProgress | None = None) -> Path:
    """Download `url` to `target` unless it exists with the right hash; `sha256` is the hash or its first digits.

    The data is written to `target` + ".part", which is renamed after its hash has been verified; a second process waits
    for the first. Raises `FetchError`, or `OutputError` if the cache cannot be written.
    """
    try:
        # `target` is always complete, so reading needs no lock: the cache may be read-only.
        if target.exists() and _digest(target).startswith(sha256):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.exists():
                if _digest(target).startswith(sha256):
                    return target
                if offline():
                    raise FetchError(
                        f"{target}: damaged (its SHA-256 does not start with {sha256}), and network access is "
                        f"disabled; replace it with {url}"
                    )
                target.unlink()
            _fetch_whole(url, target, sha256, progress)
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror or error}; free disk space, or set HTC_CACHE to another "
            f"folder"
        ) from error
    return target


def _fetch_whole(url: str, target: Path, sha256: str, progress: DownloadProgress | None) -> None:
    part = target.with_name(target.name + ".part")
    for fresh in (False, True):
        resumed = part.exists() and part.stat().st_size > 0
        _fetch_part(url, part, progress)
        digest = _digest(part)
        if digest.startswith(sha256):
            part.replace(target)
            return
        part.unlink()
        # A part that an earlier call left may belong to another file, so try once more from the start.
        if fresh or not resumed:
            raise FetchError(
                f"{url}: not the published file: its SHA-256 starts with {digest[:8]}, not {sha256}; it was removed. "
                f"Try again later"
            )


def _fetch_part(url: str, part: Path, progress: DownloadProgress | None) -> None:
    """Download until `part` is complete. After an interrupted connection, resume; give up after several attempts
    without new data.
    """
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _request(url, part, before, progress)
            return
        except _CutError as error:
            after = part.stat().st_size if part.exists() else 0
            failures = 0 if after > before else failures + 1
            if failures >= _ATTEMPTS:
                what = f"the connection was interrupted after {after} bytes" if after else "the server is unreachable"
                raise FetchError(
                    f"{url}: {what} ({error}); run the same command again to resume, or pass the file with --weights"
                ) from error
            time.sleep(_PAUSE * 2**failures)


def _request(url: str, part: Path, start: int, progress: DownloadProgress | None) -> None:
    headers = {
        "User-Agent": USER_AGENT,
        "Accept-Encoding": "identity",
        **({"Range": f"bytes={start}-"} if start else {}),
    }
    opener = urllib.request.build_opener(HttpsStaysHttps)
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as response:
            resuming = response.status == http.client.PARTIAL_CONTENT and _starts_at(response, start)
            with part.open("ab" if resuming else "wb") as file:
                _copy(response, file, start if resuming else 0, progress)
    except urllib.error.HTTPError as error:
        if (
            error.code == _UNSATISFIABLE and start
        ):  # the part is already as long as the file, or longer: the hash decides
            return
        if error.code >= http.client.INTERNAL_SERVER_ERROR:
            raise _CutError(f"HTTP {error.code} {error.reason}") from error
        raise FetchError(
            f"{url}: HTTP {error.code} {error.reason}; check the name, or pass the file with --weights"
        ) from error
    except RefusedRedirectError as error:
        raise FetchError(f"{url}: {error}") from error
    except (http.client.InvalidURL, ValueError) as error:
        raise FetchError(f"{url}: invalid URL ({error}); HTC_MIRROR must be like https://host/folder") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _CutError(str(getattr(error, "reason", error))) from error


def _starts_at(response: http.client.HTTPResponse, start: int) -> bool:
    return (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-")


def _copy(response: http.client.HTTPResponse, file: IO[bytes], start: int, progress: DownloadProgress | None) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdigit() else None
    if total is not None and total - start > shutil.disk_usage(Path(file.name).parent).free:
        raise OSError(28, f"{total - start} bytes are needed")
    done = start
    while chunk := _received(response):
        file.write(chunk)
        done += len(chunk)
        if done > _LARGEST:
            raise FetchError(f"{response.url}: more than {_LARGEST >> 30} GiB; this is not a weights file")
        if progress:
            progress(done, total)
    if total is not None and done < total:
        raise _CutError(f"{done} of {total} bytes received")


def _received(response: http.client.HTTPResponse) -> bytes:
    """Read the next bytes; raise `_CutError` for network errors, which are thus distinct from errors in writing."""
    try:
        return response.read(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise _CutError(str(error)) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
