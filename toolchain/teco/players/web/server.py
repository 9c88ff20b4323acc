"""A server for a page that wants threads: the files of one folder, with the headers for that."""

from __future__ import annotations

import contextlib
import errno
import functools
import http.server
import ipaddress
import socket
import socketserver
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from teco.core.errors import USAGE, TecoError

LOOPBACK = "127.0.0.1"
PORT = 8360
"""No other program's usual one: what a browser keeps for offline use, it keeps by host and port."""

HEADERS = {
    # Both together isolate the page; without that browsers give no shared memory, hence no threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The page's own policy, which a worker takes from its script's answer: nothing goes elsewhere.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
        "img-src 'self' data:; media-src blob:; connect-src 'self'; worker-src 'self' blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Ask each time, and be told 304: a folder that was made again is never half old.
    "Cache-Control": "no-cache",
}

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".mp4": "video/mp4",
    ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    "": "text/plain; charset=utf-8",
}


class Server(http.server.ThreadingHTTPServer):
    """Serves one folder, read-only.

    Args:
        folder: what is served.
        host: address to bind to.
        port: 0 takes a free one.
        handler: answers requests; None for the usual one.

    Raises:
        TecoError: there is no such folder or address, or the port is taken.
    """

    daemon_threads = True

    def __init__(
        self,
        folder: Path,
        host: str = LOOPBACK,
        port: int = PORT,
        handler: type[Handler] | None = None,
    ) -> None:
        if not (folder / "index.html").is_file():
            raise TecoError(
                f"{folder} holds no index.html, expected a folder of `teco emit web`",
                hint=f"`teco emit web -o {folder}` makes one; without DIR teco serve makes its own",
                exit_code=USAGE,
            )
        answer = functools.partial(handler or Handler, directory=str(folder.resolve()))
        if ":" in host:
            self.address_family = socket.AF_INET6
        self._connections: set[socket.socket] = set()
        try:
            super().__init__((host, port), answer)
        except OSError as error:
            raise TecoError(
                f"cannot listen on {host} port {port}: {error.strerror or error}",
                hint="--port 0 takes a free port" if port else "give another --host",
                exit_code=USAGE,
            ) from error

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            connection, address = super().get_request()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # Whoever waits is still there at the next look, which must not come at once.
                time.sleep(0.5)
            raise
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening, and end the connections that browsers keep for later."""
        super().server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # the browser was faster
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        name = str(host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        host = str(self.server_address[0])
        return host == "::1" or host.startswith("127.")

    def server_bind(self) -> None:
        # HTTPServer's own looks the host's name up, which may take seconds and is of no use.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away in the middle is no event."""


class Handler(http.server.SimpleHTTPRequestHandler):
    """GET and HEAD of files.

    A server that only this machine reaches answers to this machine's own names. A page elsewhere
    whose name was made to point here ("DNS rebinding") would otherwise read the folder as its own.
    """

    protocol_version = "HTTP/1.1"
    timeout = 20
    """Seconds that a connection may be silent, within a request or between two."""
    server_version = "teco"
    sys_version = ""
    extensions_map = _TYPES

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        server = self.server
        if isinstance(server, Server) and server.is_local and not _is_own(self.headers["Host"]):
            self.send_error(
                HTTPStatus.MISDIRECTED_REQUEST, explain=f"This page is at {server.url} only"
            )
            return False
        return True

    def send_head(self) -> Any:
        root = Path(self.directory)
        if "\0" in unquote(self.path):  # in no file's name; the system's calls raise errors for it
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        asked = Path(self.translate_path(self.path))
        hidden = any(part.startswith(".") for part in asked.relative_to(root).parts)
        # What a link points to outside of the folder was not meant to be shown.
        if hidden or not asked.resolve().is_relative_to(root):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> None:
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _is_own(host: str | None) -> bool:
    """Whether a request's Host is this machine seen from itself; programs may send none."""
    if host is None:
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761: nobody else can have these
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
