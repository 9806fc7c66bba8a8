"""Access to the network: whether it is allowed, redirects that stay secure, and small downloads with limits."""

import http.client
import os
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit

USER_AGENT = "hybrid-task-cascade"
CHUNK = 1 << 16


class NetworkError(Exception):
    """A download failed; the message states why, without the URL."""


class RefusedRedirectError(Exception):
    """A server redirects from https to another scheme, or to a file."""


def offline() -> bool:
    """Return whether the user has disabled network access, by HTC_OFFLINE or HF_HUB_OFFLINE."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in ("HTC_OFFLINE", "HF_HUB_OFFLINE")
    )


class HttpsStaysHttps(urllib.request.HTTPRedirectHandler):
    """Redirect handler that allows any host, but neither https to http nor local files."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        """Refuse a downgrade (`RefusedRedirectError`); otherwise the standard behavior (at most ten redirects)."""
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after != "https" and after != before:
            raise RefusedRedirectError(f"redirected to {newurl}, which is not https; refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_bytes(url: str, *, largest: int, seconds: float, kinds: tuple[str, ...] = ()) -> bytes:
    """Download a small file into memory, at most `largest` bytes in at most `seconds`, redirects included.

    `kinds`: accepted beginnings of the Content-Type; empty: all. Raises `NetworkError`.
    """
    result: list[bytes | NetworkError] = []

    def work() -> None:
        try:
            result.append(_fetched(url, largest, time.monotonic() + seconds, kinds))
        except NetworkError as error:
            result.append(error)

    # A thread, since neither the search for the host nor a server that sends its headers byte by byte has a timeout.
    thread = threading.Thread(target=work, name="htc-fetch", daemon=True)
    thread.start()
    thread.join(seconds)
    if not result:
        raise NetworkError(f"the server did not deliver it within {seconds:g} seconds")
    if isinstance(result[0], NetworkError):
        raise result[0]
    return result[0]


def _fetched(url: str, largest: int, deadline: float, kinds: tuple[str, ...]) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})
    try:
        timeout = max(deadline - time.monotonic(), 0.1)
        with urllib.request.build_opener(HttpsStaysHttps).open(request, timeout=timeout) as response:
            kind = (response.headers.get_content_type() if "Content-Type" in response.headers else "").lower()
            if kinds and kind and not kind.startswith(kinds):
                raise NetworkError(f"its content is {kind}")
            return _received(response, largest, deadline)
    except urllib.error.HTTPError as error:
        raise NetworkError(f"the server answers HTTP {error.code} {error.reason}") from error
    except RefusedRedirectError as error:
        raise NetworkError(str(error)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError, timeouts and TLS are OSErrors
        raise NetworkError(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _received(response: http.client.HTTPResponse, largest: int, deadline: float) -> bytes:
    length = response.headers.get("Content-Length", "")
    expected = int(length) if length.isdigit() else None
    content = bytearray()
    if expected is None or expected <= largest:
        while time.monotonic() < deadline and (chunk := response.read1(CHUNK)):
            content += chunk
            if len(content) > largest:
                break
    if len(content) > largest or (expected or 0) > largest:
        raise NetworkError(f"it is larger than {largest >> 20} MiB")
    if time.monotonic() >= deadline:
        raise NetworkError("the server is too slow")
    if expected is not None and len(content) < expected:
        raise NetworkError(f"the connection was interrupted after {len(content)} of {expected} bytes")
    return bytes(content)
