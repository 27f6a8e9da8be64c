"""A proxy that counts what a store sends, and may be late: for every client alike, whatever it says of itself."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator


class Counted:
    """A proxy in a process of its own.

    Args:
        process: the proxy.
        port: on which it listens, on the loopback.
    """

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self._process, self.port = process, port

    def bytes(self) -> int:
        """Bytes that the store has sent so far, heads of answers included."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def counted(port: int, *, own: int, seconds: float = 0.0) -> Iterator[Counted]:
    """Stand before a server.

    Args:
        port: the server's.
        own: to listen on.
        seconds: by which requests are late.
    """
    command = [sys.executable, "-m", "budgetloader.bench.counted", str(own), str(port), str(seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield Counted(process, own)
    finally:
        process.kill()
        process.wait()


async def _serve(own: int, port: int, seconds: float) -> None:
    sent = 0
    loop = asyncio.get_running_loop()

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)

        async def ask() -> None:
            while data := await reader.read(1 << 16):
                loop.call_later(seconds, up_writer.write, data)
            loop.call_later(seconds, up_writer.close)

        async def answer() -> None:
            nonlocal sent
            while data := await up_reader.read(1 << 19):
                sent += len(data)
                writer.write(data)
                await writer.drain()
            writer.close()

        await asyncio.gather(ask(), answer(), return_exceptions=True)

    def told() -> None:
        if sys.stdin.readline():
            print(sent, flush=True)
        else:
            loop.remove_reader(sys.stdin)

    loop.add_reader(sys.stdin, told)
    server = await asyncio.start_server(between, "127.0.0.1", own, limit=1 << 20, backlog=256)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
