"""A real HTTP server on loopback that behaves, or misbehaves, as told."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Behaviour:
    """What the server does. Paths under /moved/ redirect to `redirect`."""

    content: bytes
    honours_range: bool = True
    cut_after: list[int] = field(default_factory=list)
    """For each request in turn: close the connection after so many bytes of the body."""
    statuses: list[int] = field(default_factory=list)
    """For each request in turn: answer with this error instead."""
    redirect: str = ""
    length_known: bool = True
    delay: float = 0.0
    """Seconds before an answer."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers of an answer."""
    content_type: str = ""
    drip: float = 0.0
    """Seconds between single bytes of the body."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range header) of every GET request."""


@contextmanager
def serve(behaviour: Behaviour) -> Iterator[str]:
    """The server's address for as long as the `with` lasts."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            time.sleep(behaviour.delay)
            if behaviour.redirect and not self.path.startswith("/elsewhere/"):
                self.send_response(302)
                self.send_header("Location", behaviour.redirect)
            else:
                self.send_response(behaviour.statuses[0] if behaviour.statuses else 200)
                for name, value in behaviour.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(behaviour.content)))
            self.end_headers()

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            behaviour.requests.append((self.path, wanted))
            time.sleep(behaviour.delay)
            if behaviour.redirect and not self.path.startswith("/elsewhere/"):
                self.send_response(302)
                self.send_header("Location", behaviour.redirect)
                self.end_headers()
                return
            if behaviour.statuses:
                self.send_error(behaviour.statuses.pop(0))
                return
            self._body(int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and behaviour.honours_range else None)

        def _body(self, start: int | None) -> None:
            size = len(behaviour.content)
            if start is not None and start >= size:
                self.send_error(416)
                return
            body = behaviour.content[start or 0 :]
            self.send_response(200 if start is None else 206)
            if start is not None:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            for name, value in behaviour.headers.items():
                self.send_header(name, value)
            if behaviour.length_known:
                self.send_header("Content-Length", str(len(body)))
            if behaviour.content_type:
                self.send_header("Content-Type", behaviour.content_type)
            self.end_headers()
            body = body[: behaviour.cut_after.pop(0)] if behaviour.cut_after else body
            if not behaviour.drip:
                self.wfile.write(body)
            for number in range(len(body) if behaviour.drip else 0):
                time.sleep(behaviour.drip)
                self.wfile.write(body[number : number + 1])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
