"""A TCP proxy between the fleet and its Redis. It can cut connections in the middle of a command, and stall.

A cut hits every connection that is open at that moment, at its next traffic: `command` lets half of a command through,
`reply` drops the answer to a command that was carried out (also the message that a waiting BRPOP popped), `now` cuts at
once. Later connections are not affected.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self

CUTS = ("command", "reply", "now")
CHUNK = 1 << 16


class _Link:
    """One connection. `doom`: how it is to be cut, "" for not at all."""

    def __init__(self, *ends: asyncio.StreamWriter) -> None:
        self.ends, self.doom = ends, ""

    def cut(self) -> None:
        for end in self.ends:
            end.transport.abort()


class Proxy:
    """Listens on `port` and forwards to 127.0.0.1:`target`. Runs in a thread of its own from entry to exit."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, 0
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._ready, self._over = threading.Event(), asyncio.Event()
        self._flows = asyncio.Event()
        self._flows.set()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    def stall(self) -> None:
        """Accepts bytes, and forwards none until `resume`."""
        self._loop.call_soon_threadsafe(self._flows.clear)

    def resume(self) -> None:
        self._loop.call_soon_threadsafe(self._flows.set)

    def cut(self, how: str) -> int:
        """Cuts every open connection in one of the ways in `CUTS`. Returns how many there are."""

        async def doom() -> int:
            links = list(self._links)
            for link in links:
                link.doom = how
                if how == "now":
                    link.cut()
            return len(links)

        return asyncio.run_coroutine_threadsafe(doom(), self._loop).result()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._over.wait()
        server.close()
        self._flows.set()
        for link in list(self._links):
            link.cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=1)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, sink = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, sink)
        self._links.add(link)
        try:
            await asyncio.gather(self._pump(link, reader, sink, "command"), self._pump(link, upstream, writer, "reply"))
        finally:
            self._links.discard(link)
            link.cut()

    async def _pump(self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, side: str) -> None:
        with suppress(OSError):
            while chunk := await source.read(CHUNK):
                await self._flows.wait()
                if link.doom == side:
                    sink.write(chunk[: len(chunk) // 2] if side == "command" else b"")
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(sink.drain(), 0.1)
                    break
                sink.write(chunk)
                await sink.drain()
        link.cut()
