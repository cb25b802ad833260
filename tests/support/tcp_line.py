"""A TCP line to a server that a test can cut, as a network does. Knows nothing of what goes over it."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from itertools import chain
from types import TracebackType
from typing import Self


class TcpLine:
    """`with TcpLine(host, port) as line`: `line.port` of this machine is as good as the server's until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._server_port = host, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._ends: dict[asyncio.Task[None] | None, list[asyncio.StreamWriter]] = {}
        """Of each connection, by the task that serves it."""
        self._whole = True
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self) -> None:
        """All connections, without a goodbye; new ones too until `mend`."""
        self._do(self._cut())

    def mend(self) -> None:
        self._whole = True

    def _do[T](self, work: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _cut(self) -> None:
        self._whole = False
        for writer in chain.from_iterable(self._ends.values()):
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        await asyncio.gather(*filter(None, self._ends), return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        self._ends[task] = [writer]
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(self._host, self._server_port)
            self._ends[task].append(back)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        del self._ends[task]


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    finally:
        target.close()
