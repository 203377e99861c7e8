"""The lab's Kubernetes-shaped API: HTTPS on loopback, a bearer token, and a kubeconfig for both."""

from __future__ import annotations

import hmac
import logging
import secrets
import select
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ebpfperf.lab import credentials
from ebpfperf.lab.about import HEALTH
from ebpfperf.lab.files import write_private
from ebpfperf.lab.objects import ObjectStore
from ebpfperf.lab.podlogs import Logs
from ebpfperf.lab.requests import Request, Response, Stream
from ebpfperf.lab.routes import Routes
from ebpfperf.lab.scheduler import Scheduler
from ebpfperf.lab.status import BadRequest, StatusError, TooLarge, Unauthorized

ADDRESS = "127.0.0.1"
BODY_LIMIT_BYTES = 3 * 1024 * 1024
DROP_LIMIT_BYTES = 16 * 1024 * 1024
IDLE_S = 300.0

_log = logging.getLogger(__name__)


class ApiServer:
    """Serves a store until it is stopped; schedules pods meanwhile.

    Parameters
    ----------
    state_dir
        Where ``kubeconfig`` is written (mode 0600) by ``start``; the directory's name becomes the
        context's.
    logs
        Node name → the log lines of that node's Felix, oldest first.
    """

    def __init__(self, store: ObjectStore, *, state_dir: Path, logs: Logs) -> None:
        self._store = store
        self._stopped = threading.Event()
        self._token = secrets.token_urlsafe(32)
        self._credentials = credentials.issue(ADDRESS)
        self._routes = Routes(store, logs=logs, stopped=self._stopped.is_set)
        self._scheduler = Scheduler(store)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.state_dir = state_dir
        self.kubeconfig = state_dir / "kubeconfig"

    @property
    def url(self) -> str:
        """``https://127.0.0.1:PORT`` of a started server."""
        if self._server is None:
            raise RuntimeError("the API server has not been started")
        return f"https://{ADDRESS}:{self._server.server_address[1]}"

    def start(self) -> None:
        """Listen, begin to answer, and write the kubeconfig last: who sees it can connect."""
        server = _Server(self._routes, self._token)
        server.socket = self._credentials.server_context().wrap_socket(
            server.socket,
            server_side=True,
            # In the connection's own thread, or one silent client would block all others.
            do_handshake_on_connect=False,
        )
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, args=(0.1,), name="lab-api", daemon=True
        )
        self._thread.start()
        self._scheduler.start()
        write_private(
            self.kubeconfig,
            credentials.kubeconfig(
                f"ebpfperf-{self.state_dir.name}",
                self.url,
                self._credentials.authority,
                self._token,
            ),
        )

    def stop(self) -> None:
        """End streams, close every connection and remove the kubeconfig. Twice does nothing."""
        if self._server is None or self._stopped.is_set():
            return
        self._stopped.set()
        self._scheduler.stop()
        self._store.wake()
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        if self._thread is not None:
            self._thread.join(5.0)
        self._scheduler.join()
        self.kubeconfig.unlink(missing_ok=True)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, routes: Routes, token: str) -> None:
        super().__init__((ADDRESS, 0), _Handler)
        self.routes = routes
        self.token = token
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        # ThreadingHTTPServer shuts the TCP side only; a client then reads a truncated stream.
        super().shutdown_request(request)

    def close_connections(self) -> None:
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It has ended by itself.
                continue

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that hangs up, or speaks no TLS, is no news; anything else is a defect.
        _log.debug("connection from %s ended badly", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Headers and body leave together: one TLS record, one packet.
    wbufsize = 64 * 1024
    timeout = IDLE_S
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        _log.debug(format, *args)

    def _answer(self) -> None:
        try:
            request = self._read()
            self._let_in(request)
            answer = self.server.routes.answer(request)
        except StatusError as error:
            self._send(Response.of(error.to_status(), status=error.code))
        except Exception:
            _log.exception("%s %s", self.command, self.path)
            defect = StatusError("the lab's API failed on this request; see the lab's log")
            self._send(Response.of(defect.to_status(), status=defect.code))
        else:
            if isinstance(answer, Stream):
                self._send_stream(answer)
            else:
                self._send(answer)

    def _read(self) -> Request:
        length = self.headers.get("Content-Length", "0")
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = self._read_chunks()
        elif not length.isdigit():
            self.close_connection = True
            raise BadRequest("Content-Length is no number")
        elif int(length) > BODY_LIMIT_BYTES:
            # Read and dropped within reason, so that the client hears why; then closed, or the rest
            # would be taken for the next request.
            self.close_connection = True
            left = min(int(length), DROP_LIMIT_BYTES)
            while left > 0 and (dropped := self.rfile.read(min(left, 65536))):
                left -= len(dropped)
            raise TooLarge(f"a body may have {BODY_LIMIT_BYTES} bytes")
        else:
            body = self.rfile.read(int(length))
        return Request.of(self.command, self.path, dict(self.headers), body)

    def _read_chunks(self) -> bytes:
        body = b""
        while True:
            try:
                size = int(self.rfile.readline(64).partition(b";")[0], 16)
            except ValueError:
                self.close_connection = True
                raise BadRequest("a chunk has no size") from None
            if size + len(body) > BODY_LIMIT_BYTES or size < 0:
                self.close_connection = True
                raise TooLarge(f"a body may have {BODY_LIMIT_BYTES} bytes")
            body += self.rfile.read(size)
            self.rfile.readline(64)
            if size == 0:
                return body

    def _let_in(self, request: Request) -> None:
        if request.path in HEALTH:
            return
        word, _, token = request.headers.get("authorization", "").partition(" ")
        if word.lower() != "bearer" or not hmac.compare_digest(
            token.strip().encode(), self.server.token.encode()
        ):
            raise Unauthorized("Unauthorized")

    def _send(self, response: Response) -> None:
        self._head(response.status, response.media)
        self.send_header("Content-Length", str(len(response.body)))
        for warning in response.warnings:
            quoted = warning.replace("\\", "\\\\").replace('"', '\\"')
            self.send_header("Warning", f'299 - "{quoted}"')
        self.end_headers()
        self.wfile.write(response.body)
        self.wfile.flush()

    def _send_stream(self, stream: Stream) -> None:
        self._head(200, stream.media)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.wfile.flush()
            for piece in stream.pieces:
                if piece:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.flush()
                elif self._is_left():
                    self.close_connection = True
                    return
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        except OSError:
            # The client went away, which is how watches usually end.
            self.close_connection = True

    def _head(self, status: int, media: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Cache-Control", "no-cache, private")
        if self.close_connection:
            self.send_header("Connection", "close")

    def _is_left(self) -> bool:
        """Whether the client has hung up: it sends nothing more while it watches."""
        connection = self.connection
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return False
        return bool(select.select([connection], [], [], 0)[0])
