"""One connection to a crypto venue: a thread of its own with the WebSocket, HTTP for snapshots, and the codec.

What the codec's market tells is handed over in batches, through a queue and an eventfd. The thread owns codec and
market; others call nothing of them while it runs.

| what happens | what the reader does |
| --- | --- |
| the connection breaks, or cannot be made, or the codec asks for a new one | all books are cleared; connects again |
| no frame for `stale_s` | the same |
| the codec asks for a snapshot | fetches it, at most once a second for a symbol |
| the codec asks to subscribe again | sends the frames, at most once a second for a symbol |
| nobody takes the batches | disconnects when `most_waiting` messages wait, connects again when half are taken |

The wait before connecting again doubles from 0.25 to 30 s, less a random part of up to a half, and is short again
after a connection that has brought a frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import os
import random
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from picows import WSAutoPingStrategy, WSError, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from tickpath.common.crypto.codec import Ask, Codec, Wish
from tickpath.common.crypto.market import Batch

_FIRST_WAIT_S: Final = 0.25
_LONGEST_WAIT_S: Final = 30.0
_ASK_AGAIN_S: Final = 1.0
_KEEP_ALIVE_S: Final = 15.0
_LOOK_S: Final = 0.1
_REPORT_S: Final = 1.0
_HTTP_TIMEOUT_S: Final = 10.0
_MOST_BYTES: Final = 64 << 20
_NS_PER_DAY: Final = 86_400_000_000_000


class FetchError(Exception):
    """An HTTP server did not answer, or not with what was asked for; the message says what it said."""


async def fetch(url: str) -> bytes:
    """Body of an HTTP or HTTPS answer. Raises FetchError."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: tickpath\r\nConnection: close\r\n\r\n"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(_HTTP_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                host, parts.port or (443 if secure else 80), ssl=ssl.create_default_context() if secure else None
            )
            writer.write(request.encode("ascii"))
            answer = await reader.read(-1)
        response = http.client.HTTPResponse(_Answer(answer))  # type: ignore[arg-type]
        response.begin()
        body = response.read()
    except (OSError, TimeoutError, http.client.HTTPException, UnicodeEncodeError) as error:
        msg = f"{url}: {error or type(error).__name__}"
        raise FetchError(msg) from None
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(writer.wait_closed(), 1.0)
    if response.status != http.client.OK:
        said = body[:200].decode("utf-8", errors="replace")
        msg = f"{url}: {response.status} {response.reason}: {said}"
        raise FetchError(msg)
    return body


class _Answer:
    """Bytes in the place of the socket that `http.client` reads."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        del mode
        return io.BytesIO(self._data)


class _Listener(WSListener):
    """The callbacks of one connection."""

    def __init__(self, received: Callable[[bytes], None], woken: asyncio.Event) -> None:
        super().__init__()
        self._received = received
        self._woken = woken
        self._parts = bytearray()
        self.over = False

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """A frame; a message may be cut into several."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            payload = frame.get_payload_as_bytes()
            if frame.fin and not self._parts:
                self._received(payload)
                return
            self._parts += payload
            if len(self._parts) > _MOST_BYTES:
                transport.disconnect()
            elif frame.fin:
                whole = bytes(self._parts)
                self._parts.clear()
                self._received(whole)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """The connection is over."""
        del transport
        self.over = True
        self._woken.set()


class Reader:
    """See the module. `url` and `http_url` are without a path."""

    def __init__(
        self,
        codec: Codec,
        url: str,
        http_url: str = "",
        *,
        stale_s: float = 30.0,
        most_waiting: int = 1 << 20,
        first_wait_s: float = _FIRST_WAIT_S,
        report: Callable[[], None] | None = None,
        seen: Callable[[bytes], None] | None = None,
    ) -> None:
        """`report` is called about once a second, `seen` with all that the venue says; in the reader's thread."""
        self.codec: Final = codec
        self.counts: Counter[str] = Counter()  # connections, frames, ...: see docs/crypto.md
        self.state = "connecting"  # for people: connecting, live, waiting
        self.last_fault = ""
        self.ready = threading.Event()  # set while all books are whole
        self._url, self._http_url = url, http_url
        self._stale_s = stale_s
        self._most_waiting = most_waiting
        self._first_wait_s = first_wait_s
        self._report, self._seen = report, seen
        self._reported_s = 0.0
        self._batches: deque[Batch] = deque()
        self._handed = 0  # messages put into the queue so far; written by the thread only
        self._taken = 0  # messages taken from it; written by the one that takes only
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken: asyncio.Event | None = None
        self._last_frame_s = 0.0
        self._heard = False  # this connection has brought a frame
        self._thread = threading.Thread(target=self._main, name="crypto-reader", daemon=True)

    # For the owner.

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def fileno(self) -> int:
        """Readable when there is something to take."""
        return self._fd

    def take(self) -> Batch | None:
        """The oldest batch that was not taken, None when there is none. Never waits."""
        if not self._batches:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._fd)
            if not self._batches:
                return None
        batch = self._batches.popleft()
        self._taken += len(batch.time_ns)
        return batch

    @property
    def waiting(self) -> int:
        """Messages that were told and not taken."""
        return self._handed - self._taken

    def close(self) -> None:
        """End the connection and the thread."""
        self._closing = True
        loop, woken = self._loop, self._woken
        if loop is not None and woken is not None:
            with contextlib.suppress(RuntimeError):  # the loop may have ended by itself
                loop.call_soon_threadsafe(woken.set)
        if self._thread.ident is not None:
            self._thread.join(timeout=15.0)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # The thread.

    def _main(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._woken = woken = asyncio.Event()
        self._hand_over()
        wait_s = self._first_wait_s
        while not self._closing:
            listener = _Listener(self._received, woken)
            self._heard = False
            try:
                transport, connected = await ws_connect(
                    lambda: listener,  # noqa: B023 - it is called before the next round
                    self.codec.address(self._url),
                    websocket_handshake_timeout=10,
                    max_frame_size=_MOST_BYTES,
                    enable_auto_ping=True,
                    auto_ping_idle_timeout=max(1.0, self._stale_s / 3),
                    auto_ping_reply_timeout=max(1.0, self._stale_s / 3),
                    auto_ping_strategy=WSAutoPingStrategy.PING_WHEN_IDLE,
                )
                if connected is None:  # picows 2.3 returns as if all were well, and calls nobody
                    raise ConnectionResetError("closed before it had answered")
            except (OSError, WSError, TimeoutError) as error:
                self.counts["connect_failures"] += 1
                self.last_fault = f"{self._url}: {error or type(error).__name__}"
            else:
                self.counts["connections"] += 1
                await self._serve(transport, listener, woken)
            self._now()
            self.codec.disconnected()
            self.ready.clear()
            self._hand_over()
            wait_s = self._first_wait_s if self._heard else min(2 * wait_s, _LONGEST_WAIT_S)
            self.state = "waiting"
            self._tell(time.monotonic())
            await self._sleep(wait_s * random.uniform(0.5, 1.0), woken)  # noqa: S311 - to spread clients, no secret
            while self.waiting > self._most_waiting // 2 and not self._closing:
                await self._sleep(_LOOK_S, woken)
            self.state = "connecting"

    async def _sleep(self, seconds: float, woken: asyncio.Event) -> None:
        until = time.monotonic() + seconds
        while not self._closing and (left := until - time.monotonic()) > 0:
            woken.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(woken.wait(), left)

    async def _serve(self, transport: WSTransport, listener: _Listener, woken: asyncio.Event) -> None:
        """From the first frame to the last."""
        self._last_frame_s = alive_s = time.monotonic()
        asked: dict[Wish, float] = {}
        tasks: dict[str, asyncio.Task[None]] = {}
        self._send(transport, self.codec.subscriptions())
        self.state = "live"
        try:
            while not listener.over and not self._closing:
                now = time.monotonic()
                self._tell(now)
                if now - self._last_frame_s > self._stale_s:
                    self.counts["stale"] += 1
                    self.last_fault = f"nothing was heard for {self._stale_s:g} s"
                    break
                if self.waiting > self._most_waiting:
                    self.counts["overflows"] += 1
                    self.last_fault = f"{self.waiting} messages were not taken"
                    break
                if now - alive_s > _KEEP_ALIVE_S:
                    alive_s = now
                    frame = self.codec.keep_alive()
                    self._send(transport, [frame] if frame else [])
                if not self._grant(transport, asked, tasks, now):
                    break
                woken.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), _LOOK_S)
        finally:
            for task in tasks.values():
                task.cancel()
            transport.disconnect(graceful=False)
            with contextlib.suppress(WSError, OSError):
                await transport.wait_disconnected()

    def _grant(
        self, transport: WSTransport, asked: dict[Wish, float], tasks: dict[str, asyncio.Task[None]], now: float
    ) -> bool:
        """Do what the codec wishes; False: it wishes a new connection."""
        wishes, self.codec.wishes[:] = list(self.codec.wishes), []
        for wish in wishes:
            if wish.ask == Ask.RECONNECT:
                self.counts["reconnects_asked"] += 1
                self.last_fault = "the venue or a gap asked for a new connection"
                return False
            task = tasks.get(wish.symbol)
            if now - asked.get(wish, 0.0) < _ASK_AGAIN_S or (task is not None and not task.done()):
                if wish not in self.codec.wishes:
                    self.codec.wishes.append(wish)
                continue
            asked[wish] = now
            if wish.ask == Ask.RESUBSCRIBE:
                self.counts["resubscriptions"] += 1
                self._send(transport, self.codec.again(wish.symbol))
            else:
                tasks[wish.symbol] = asyncio.create_task(self._snapshot(wish.symbol))
        return True

    async def _snapshot(self, symbol: str) -> None:
        self.counts["snapshots_asked"] += 1
        try:
            body = await fetch(self._http_url + self.codec.snapshot_path(symbol))
        except FetchError as error:
            self.counts["snapshot_failures"] += 1
            self.last_fault = str(error)
            self.codec.wishes.append(Wish(Ask.SNAPSHOT, symbol))
            return
        self._now()
        if self._seen is not None:
            self._seen(body)
        self.codec.snapshot(symbol, body)
        self._after()

    def _tell(self, now: float) -> None:
        if self._report is not None and now - self._reported_s >= _REPORT_S:
            self._reported_s = now
            self._report()

    def _send(self, transport: WSTransport, frames: list[bytes]) -> None:
        for frame in frames:
            transport.send(WSMsgType.TEXT, frame)

    def _received(self, frame: bytes) -> None:
        self._last_frame_s = time.monotonic()
        self._heard = True
        self.counts["frames"] += 1
        self.counts["bytes"] += len(frame)
        self._now()
        if self._seen is not None:
            self._seen(frame)
        self.codec.receive(frame)
        self._after()

    def _now(self) -> None:
        self.codec.market.time_ns = time.time_ns() % _NS_PER_DAY

    def _after(self) -> None:
        self._hand_over()
        if self.codec.wishes and self._woken is not None:
            self._woken.set()
        if not self.codec.ready():
            self.ready.clear()
        elif not self.ready.is_set():
            self.ready.set()

    def _hand_over(self) -> None:
        batch = self.codec.market.take()
        if batch is not None:
            self._handed += len(batch.time_ns)
            self._batches.append(batch)
            with contextlib.suppress(BlockingIOError, OSError):
                os.eventfd_write(self._fd, 1)
