"""Images at http and https addresses, downloaded into memory with limits of size and time."""

from urllib.parse import urlsplit

from htc.errors import DataError
from htc.network import NetworkError, fetch_bytes, offline

LARGEST = 256 << 20
"""Maximum size of an image in bytes."""
SECONDS = 60.0
"""Maximum duration of a download."""
KINDS = ("image/", "application/octet-stream", "binary/octet-stream")
"""Content types of images; some servers do not know them and send a general one."""


def check_url(url: str) -> None:
    """Raise `DataError` for an address that cannot be fetched: another scheme, no host, or no network access."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in ("http", "https"):
        raise DataError(
            f"{url}: only http and https URLs are fetched, not {parts.scheme}; download the image and pass its path"
        )
    if not parts.hostname:
        raise DataError(f"{url}: this URL has no host; write it as https://host/image.jpg")
    if offline():
        raise DataError(
            f"{url}: not fetched, since network access is disabled (HTC_OFFLINE or HF_HUB_OFFLINE); download the image "
            f"and pass its path"
        )


def fetch_image(url: str) -> bytes:
    """Download the file of an image; raises `DataError` with the whole address."""
    check_url(url)
    try:
        return fetch_bytes(url, largest=LARGEST, seconds=SECONDS, kinds=KINDS)
    except NetworkError as error:
        raise DataError(f"{url}: no image could be fetched: {error}; check the URL, or download the image") from error
