"""A crypto venue on this machine: recorded frames over a WebSocket, with their timing, and what else a client needs.

    python -m tickpath.sim.websocket FILE... --port 9400 --speed 10

The recording begins with the first subscription and goes on whoever listens; a client gets what is sent while it is
connected, and of Binance's streams those that it names. So that a client can begin, or begin again, at any moment,
the server keeps the books up to the last frame and gives whole ones: to Binance's clients over HTTP on the same
port (``/api/v3/depth``, ``/fapi/v1/depth``, ``/dapi/v1/depth``, and ``exchangeInfo``), to others when they subscribe,
in the format of the recording. Coinbase's sequence numbers run for each connection, as they do there.

| request | does |
| --- | --- |
| ``POST /control/cut`` | all connections are cut without a word |
| ``POST /control/drop?frames=n`` | the next n book changes are left out |
| ``POST /control/hold?frames=n`` | the recording stops after its frame n; without a number, where it is |
| ``POST /control/go`` | it goes on |
| ``GET /control/state`` | frames sent, clients, whether the recording is over |
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import re
import sys
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from tickpath.common.crypto.binance import BinanceSpot
from tickpath.common.crypto.codec import Codec
from tickpath.common.crypto.market import ASK, BID, Market
from tickpath.sim.sources.crypto import Recording, find_terms, read_recording
from tickpath.sim.sources.tape import DataFileError

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_MOST_WAITING: Final = 256 << 20
_SEQUENCE: Final = re.compile(rb'"sequence_num":\s*\d+')
_PATHS: Final = {"binance": "/api/v3", "binance-usdm": "/fapi/v1", "binance-coinm": "/dapi/v1"}
_DIFFERENCES: Final = (b"depthUpdate", b'"book-', b'"l2_data"', b'"orderbook.')


class _Client:
    """One WebSocket connection."""

    def __init__(self, writer: asyncio.StreamWriter, streams: frozenset[str]) -> None:
        self.writer = writer
        self.streams = streams  # of Binance; empty: all
        self.subscribed = False
        self.sequence = 0  # of Coinbase

    def send(self, frame: bytes, kind: int = _TEXT) -> None:
        if self.writer.is_closing():
            return
        n = len(frame)
        head = bytes((0x80 | kind,))
        if n < 126:
            head += bytes((n,))
        elif n < 1 << 16:
            head += b"\x7e" + n.to_bytes(2, "big")
        else:
            head += b"\x7f" + n.to_bytes(8, "big")
        self.writer.write(head + frame)
        if self.writer.transport.get_write_buffer_size() > _MOST_WAITING:
            self.cut()

    def cut(self) -> None:
        self.writer.transport.abort()


class VenueServer:
    """The server; all of it runs in one event loop."""

    def __init__(self, recording: Recording, *, speed: float | str = 1.0, loop: bool = False) -> None:
        """`speed` times the recorded pace, or "max"; `loop`: begin again at the end."""
        self._recording = recording
        self._speed = 0.0 if isinstance(speed, str) else speed
        self._loop = loop
        self._market = Market()
        self._codec: Codec = recording.codec(self._market)
        self._terms = find_terms(recording)
        self._clients: list[_Client] = []
        self._begun = asyncio.Event()
        self._moved = asyncio.Event()
        self._drop = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self.hold_at: int | None = None  # stop after so many frames
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent = 0  # frames of the recording
        self.over = False
        self.port = 0
        self._server: asyncio.Server | None = None
        self._stopping = False

    @property
    def symbols(self) -> tuple[str, ...]:
        """Names at the venue."""
        return tuple(self._terms)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen (port 0: any). Raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=1 << 20)
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._spawn(self._play())

    async def stop(self) -> None:
        """End everything."""
        self._stopping = True
        if self._server is not None:
            # A server that is closed while somebody is accepted loses the connection, open: nobody comes any more,
            # then whoever is on the way is made known and cut.
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            await _rounds()
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while self._writers:
            await asyncio.sleep(0.001)
        await _rounds()  # the transports close

    def cut(self) -> None:
        """Cut all connections."""
        for client in self._clients:
            client.cut()

    def drop(self, frames: int) -> None:
        """Leave out the next book changes."""
        self._drop += frames

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # The recording.

    async def _play(self) -> None:
        await self._begun.wait()
        recording = self._recording
        while True:
            begin_s, first_ns = time.monotonic(), recording.times_ns[0]
            for time_ns, frame in zip(recording.times_ns, recording.frames, strict=True):
                if self._speed:
                    wait_s = begin_s + (time_ns - first_ns) / 1e9 / self._speed - time.monotonic()
                    if wait_s > 0:
                        await asyncio.sleep(wait_s)
                elif self.sent % 64 == 0:
                    await asyncio.sleep(0)
                    for client in list(self._clients):
                        with contextlib.suppress(ConnectionError):
                            await client.writer.drain()
                while self.hold_at is not None and self.sent >= self.hold_at:
                    held_s = time.monotonic()
                    await asyncio.sleep(0.002)
                    begin_s += time.monotonic() - held_s
                self._pass_on(frame)
            if not self._loop:
                break
            self._codec.disconnected()
        self.over = True

    def _pass_on(self, frame: bytes) -> None:
        self._codec.receive(frame)
        self._moved.set()
        self.sent += 1
        if self._recording.venue in _PATHS and not frame.startswith(b'{"stream"'):
            return  # the answer to an HTTP request
        lost = self._drop > 0 and any(mark in frame[:120] for mark in _DIFFERENCES)
        self._drop -= lost
        stream = frame[11 : frame.find(b'"', 11)].decode("ascii", errors="replace")
        for client in self._clients:
            if not client.subscribed or (client.streams and stream not in client.streams):
                continue
            text = self._numbered(client, frame)
            if not lost:
                client.send(text)

    def _numbered(self, client: _Client, frame: bytes) -> bytes:
        """Coinbase counts the messages of each connection."""
        if self._recording.venue != "coinbase":
            return frame
        text = _SEQUENCE.sub(b'"sequence_num":%d' % client.sequence, frame, count=1)
        client.sequence += 1
        return text

    # Whole books.

    def _levels(self, number: int, side: int, most: int | None = None) -> list[list[str]]:
        price_decimals, qty_decimals = self._market.written(number)
        return [
            [f"{level.price:.{price_decimals}f}", f"{level.qty:.{qty_decimals}f}"]
            for level in self._market.side(number, side, most)
        ]

    def _whole_books(self) -> list[bytes]:
        """A snapshot of each symbol that has a book, as the recording's venue sends it."""
        found: list[bytes] = []
        for number, name in enumerate(self._market.names):
            if self._market.depth(number) == (0, 0):
                continue
            bids, asks = self._levels(number, BID), self._levels(number, ASK)
            message: Any
            if self._recording.venue == "kraken":
                stamp = ["0.000000"]
                book = {"as": [level + stamp for level in asks], "bs": [level + stamp for level in bids]}
                message = [0, book, "book-1000", name]
            elif self._recording.venue == "bybit":
                data = {"s": name, "b": bids, "a": asks, "u": self._codec.last_u(name), "seq": 0}  # type: ignore[attr-defined]
                message = {"topic": f"orderbook.200.{name}", "type": "snapshot", "ts": 0, "data": data}
            else:
                updates = [
                    {"side": side, "event_time": "", "price_level": price, "new_quantity": qty}
                    for side, levels in (("bid", bids), ("offer", asks))
                    for price, qty in levels
                ]
                events = [{"type": "snapshot", "product_id": name, "updates": updates}]
                message = {
                    "channel": "l2_data",
                    "client_id": "",
                    "timestamp": "",
                    "sequence_num": 0,
                    "events": events,
                }
            found.append(json.dumps(message, separators=(",", ":")).encode())
        return found

    def _subscribe(self, client: _Client) -> None:
        for book in self._whole_books():
            client.send(self._numbered(client, book))
        client.subscribed = True
        self._begun.set()

    # Connections.

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._stopping:
            writer.transport.abort()
            return
        self._writers.add(writer)
        self._spawn(self._attend(reader, writer))

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ", 2)
            headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:])}
            if "websocket" in headers.get("upgrade", "").lower():
                await self._converse(reader, writer, target, headers)
            else:
                status, body = await self._answer(method, target)
                text = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                writer.write(text.encode("ascii") + b"Connection: close\r\n\r\n" + body)
                await writer.drain()
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # a client that goes, or is none
        finally:
            writer.transport.abort() if self._stopping else writer.close()
            self._writers.discard(writer)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, headers: dict[str, str]
    ) -> None:
        digest = hashlib.sha1(headers.get("sec-websocket-key", "").encode("ascii") + _GUID)  # noqa: S324 - RFC 6455
        accept = base64.b64encode(digest.digest()).decode("ascii")
        writer.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode("ascii")
        )
        named = parse_qs(urlsplit(target).query).get("streams", [""])[0]
        client = _Client(writer, frozenset(filter(None, named.split("/"))))
        self._clients.append(client)
        if self._recording.venue in _PATHS:
            self._subscribe(client)
        try:
            while True:
                first, second = await reader.readexactly(2)
                size = second & 0x7F
                if size > 125:
                    size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
                mask = await reader.readexactly(4)
                payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(await reader.readexactly(size)))
                kind = first & 0x0F
                if kind == _PING:
                    client.send(payload, _PONG)
                elif kind == _CLOSE:
                    client.send(payload, _CLOSE)
                    return
                elif kind == _TEXT and b"subscribe" in payload and not self._is_trades(payload):
                    if b"unsubscribe" in payload:
                        client.subscribed = False
                    else:
                        self._subscribe(client)
        finally:
            self._clients.remove(client)

    @staticmethod
    def _is_trades(payload: bytes) -> bool:
        """Whether a subscription is for something that has no books; all is sent after the first of books anyway."""
        return any(word in payload for word in (b'"trade"', b"market_trades", b"publicTrade", b"heartbeats"))

    async def _answer(self, method: str, target: str) -> tuple[str, bytes]:
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        root = _PATHS.get(self._recording.venue, "/-")
        if (method, parts.path) == ("POST", "/control/cut"):
            self.cut()
        elif (method, parts.path) == ("POST", "/control/drop"):
            self.drop(int(query.get("frames", "1")))
        elif (method, parts.path) == ("POST", "/control/hold"):
            self.hold_at = int(query.get("frames", self.sent))
        elif (method, parts.path) == ("POST", "/control/go"):
            self.hold_at = None
        elif parts.path == f"{root}/exchangeInfo":
            return self._instruments(query.get("symbol"))
        elif parts.path == f"{root}/depth":
            return await self._depth(query.get("symbol", ""), int(query.get("limit", "100")))
        elif parts.path != "/control/state":
            return "404 Not Found", b"{}"
        state = {"sent": self.sent, "clients": len(self._clients), "over": self.over, "symbols": self.symbols}
        return "200 OK", json.dumps(state).encode()

    def _instruments(self, symbol: str | None) -> tuple[str, bytes]:
        if symbol is not None and symbol not in self._terms:
            return "400 Bad Request", b'{"code":-1121,"msg":"Invalid symbol."}'
        listed = [
            {
                "symbol": name,
                "quoteAsset": terms.currency,
                **({"contractSize": 100} if self._recording.venue == "binance-coinm" else {}),
                "filters": [
                    {"filterType": "PRICE_FILTER", "tickSize": terms.tick_size},
                    {"filterType": "LOT_SIZE", "stepSize": terms.lot_size},
                ],
            }
            for name, terms in self._terms.items()
            if symbol in (None, name)
        ]
        return "200 OK", json.dumps({"symbols": listed}).encode()

    async def _depth(self, symbol: str, limit: int) -> tuple[str, bytes]:
        if symbol not in self._terms or not isinstance(self._codec, BinanceSpot):
            return "400 Bad Request", b'{"code":-1121,"msg":"Invalid symbol."}'
        self._begun.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while self._codec.last_u(symbol) < 0:
                    self._moved.clear()
                    await self._moved.wait()
        last_u = self._codec.last_u(symbol)
        if last_u < 0:
            return "503 Service Unavailable", b"{}"
        number = self._market.numbers[symbol]
        book = {
            "lastUpdateId": last_u,
            "bids": self._levels(number, BID, limit),
            "asks": self._levels(number, ASK, limit),
        }
        return "200 OK", json.dumps(book, separators=(",", ":")).encode()


async def _rounds() -> None:
    """Let everything happen that is under way in the loop."""
    for _ in range(10):
        await asyncio.sleep(0)


async def _run(recording: Recording, options: argparse.Namespace) -> None:
    server = VenueServer(recording, speed=options.speed, loop=options.loop)
    await server.start(options.host, options.port)
    names = ",".join(server.symbols)
    address = f"{options.host}:{server.port}"
    sys.stderr.write(
        f"{recording.venue}: {len(recording.frames)} frames on ws://{address} and http://{address}\n"
        f"tickpath up --feed {recording.venue} --symbols {names} --feed-url ws://{address}\n"
    )
    await asyncio.Event().wait()


def _pace(text: str) -> float | str:
    return text if text == "max" else float(Decimal(text))


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tickpath.sim.websocket", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recordings (.tsjson) of one venue")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9400, help="0: any")
    parser.add_argument("--speed", type=_pace, default=1.0, help="times the recorded pace, or max")
    parser.add_argument("--loop", action="store_true", help="begin again at the end")
    options = parser.parse_args(arguments)
    if options.speed != "max" and not 0 < options.speed < float("inf"):
        parser.error(f"--speed {options.speed}: allowed are numbers above 0, and max")
    try:
        recording = read_recording(options.files)
        asyncio.run(_run(recording, options))
    except DataFileError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
