"""A web server on the loopback interface, from which tests download what they published there."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath

from skllm4es.datasets._base import Archive


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


GOOD_ZIP = make_zip({"toy/a.txt": b"one\ntwo\n", "toy/deep/b.txt": b"three\n"})


class Server:
    """A web server on the loopback interface whose answers a test chooses."""

    def __init__(self) -> None:
        self.body = GOOD_ZIP
        self.files: dict[str, bytes] = {}  # by their names; all other addresses answer with the body
        self.statuses: list[int] = []  # of the first answers; then 200
        self.sent_bytes: int | None = None  # fewer than announced
        self.before_answering: Callable[[], object] = lambda: None
        self.n_requests = 0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}/toy.zip"

    def archive(self, sha256: str | None = None) -> Archive:
        return Archive("Toy", self.url, sha256 or hashlib.sha256(self.body).hexdigest(), "toy")

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.n_requests += 1
                server.before_answering()
                self.send_response(server.statuses.pop(0) if server.statuses else 200)
                body = server.files.get(PurePosixPath(self.path).name, server.body)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: server.sent_bytes])

            def log_message(self, *args: object) -> None:
                pass

        return Handler
