"""Links over real ZeroMQ sockets: nothing lost, nothing twice, everything in order."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from tickpath.common import frames
from tickpath.common.clock import now_ns
from tickpath.common.config import LinksConfig
from tickpath.common.frames import FrameError
from tickpath.common.links import (
    FanoutReceiver,
    FanoutSender,
    LinkError,
    LogReceiver,
    LogSender,
    RingLog,
    _Inbox,
    _Outlet,
)
from tickpath.common.records import ORDER, SIGNAL, TICK, RecordKind

CONFIG = LinksConfig(tick_ring=1024, log_ring=256, window=64, frame_records=50, gap_timeout_ms=200, heartbeat_ms=10)


class KeepingContext(zmq.Context):  # type: ignore[type-arg]
    """A context that holds on to its sockets until it is destroyed, however a test ends."""

    kept: ClassVar[list[object]] = []

    def socket(self, *args: Any, **kwargs: Any) -> Any:
        made = super().socket(*args, **kwargs)
        self.kept.append(made)
        return made


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made = KeepingContext(1)
    yield made
    made.destroy(linger=0)
    KeepingContext.kept.clear()


@pytest.fixture
def address(tmp_path: Path) -> tuple[str, str]:
    return f"ipc://{tmp_path}/link", f"ipc://{tmp_path}/link.want"


def lose(inbox: Any, drops: Callable[[int, Any], bool]) -> list[Any]:
    """From now on this inbox loses the frames of which ``drops(number of the frame, frame)``; those come here."""
    take, dropped, n = inbox.take, [], 0

    def lossy(*expected: int) -> Any:
        nonlocal n
        while (frame := take(*expected)) is not None:
            n += 1
            if not drops(n, frame):
                break
            dropped.append(frame)
        return frame

    inbox.take = lossy
    return dropped


def records(dtype: np.dtype[np.void], first: int, n: int) -> np.ndarray:
    made = np.zeros(n, dtype=dtype)
    made["cause_seq"] = np.arange(first, first + n)
    return made


def until(done: Callable[[], bool], step: Callable[[], None], seconds: float = 10.0) -> None:
    """Turn `step` until `done`; fails when it never is."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "never happened"
        step()
        time.sleep(0.001)


class Subscriber:
    """A fan-out receiver that remembers the causes it was given."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]) -> None:
        self.link = FanoutReceiver(context, address, RecordKind.TICK, "test", CONFIG)
        self.causes: list[int] = []

    def step(self) -> None:
        now = now_ns()
        for batch in [*self.link.receive(now), *self.link.tend(now)]:
            self.causes += batch["cause_seq"].tolist()


def test_fanout_delivers_in_order_from_the_first_record_to_a_subscriber_that_comes_late(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    sender = FanoutSender(context, address, RecordKind.TICK, "feed", 7, CONFIG)
    sender.send(records(TICK, 1, 300), now_ns())  # nobody listens yet
    subscriber = Subscriber(context, address)
    sent = 300

    def step() -> None:
        nonlocal sent
        if sent < 400:
            sender.send(records(TICK, sent + 1, 1), now_ns())
            sent += 1
        sender.serve(now_ns())
        sender.tend(now_ns())
        subscriber.step()

    until(lambda: len(subscriber.causes) >= 400, step)
    assert subscriber.causes == list(range(1, 401))
    assert subscriber.link.lost == 0
    assert subscriber.link.repaired >= 300


def test_fanout_counts_what_the_ring_no_longer_holds(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    sender = FanoutSender(context, address, RecordKind.TICK, "feed", 7, CONFIG)
    subscriber = Subscriber(context, address)

    def step() -> None:
        sender.serve(now_ns())
        sender.tend(now_ns())
        subscriber.step()

    sender.send(records(TICK, 1, 10), now_ns())
    until(lambda: len(subscriber.causes) == 10, step)
    subscriber.link.sub.setsockopt(zmq.UNSUBSCRIBE, b"T")
    time.sleep(0.1)
    for first in range(11, 5011, 100):
        sender.send(records(TICK, first, 100), now_ns())
    subscriber.link.sub.setsockopt(zmq.SUBSCRIBE, b"T")
    until(lambda: bool(subscriber.causes) and subscriber.causes[-1] == 5010, step)
    assert subscriber.link.lost == 5010 - 10 - CONFIG.tick_ring
    assert subscriber.causes[10:] == list(range(5010 - CONFIG.tick_ring + 1, 5011))


def test_fanout_recovers_frames_that_were_dropped_on_the_way(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    sender = FanoutSender(context, address, RecordKind.TICK, "feed", 7, CONFIG)
    subscriber = Subscriber(context, address)
    dropped = lose(subscriber.link._live, lambda number, _: number % 3 == 0)
    sent = 0

    def step() -> None:
        nonlocal sent
        if sent < 500:
            sender.send(records(TICK, sent + 1, 5), now_ns())
            sent += 5
        sender.serve(now_ns())
        sender.tend(now_ns())
        subscriber.step()

    until(lambda: len(subscriber.causes) >= 500, step)
    assert len(dropped) > 0
    assert subscriber.link.repaired > 0
    assert subscriber.causes == list(range(1, 501))
    assert subscriber.link.lost == 0


def test_fanout_starts_anew_with_the_next_life_of_the_producer_and_refuses_the_old_one(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    address = (f"ipc://{tmp_path}/a", f"ipc://{tmp_path}/a.want")
    old = FanoutSender(context, address, RecordKind.TICK, "feed", 7, CONFIG)
    subscriber = Subscriber(context, address)

    def turn(sender: FanoutSender) -> Callable[[], None]:
        def step() -> None:
            sender.serve(now_ns())
            sender.tend(now_ns())
            subscriber.step()

        return step

    old.send(records(TICK, 1, 5), now_ns())
    until(lambda: len(subscriber.causes) == 5, turn(old))
    old.close()
    new = FanoutSender(context, address, RecordKind.TICK, "feed", 8, CONFIG)
    new.send(records(TICK, 100, 5), now_ns())
    until(lambda: len(subscriber.causes) == 10, turn(new))
    assert subscriber.causes[5:] == [100, 101, 102, 103, 104]
    assert subscriber.link.epochs == 2


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"nonsense", msgspec.msgpack.encode([1, 2, 3])])
def test_a_malformed_frame_is_counted_and_does_not_stop_the_stream(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str], payload: bytes
) -> None:
    sender = FanoutSender(context, address, RecordKind.TICK, "feed", 7, CONFIG)
    subscriber = Subscriber(context, address)

    def step() -> None:
        sender.serve(now_ns())
        sender.tend(now_ns())
        subscriber.step()

    sender.send(records(TICK, 1, 1), now_ns())
    until(lambda: len(subscriber.causes) == 1, step)
    sender._pub.send_multipart((frames.topic(RecordKind.TICK), payload))
    sender._pub.send_multipart((frames.topic(RecordKind.TICK),))
    sender.send(records(TICK, 2, 1), now_ns())
    until(lambda: len(subscriber.causes) == 2, step)
    assert subscriber.link.errors == {"malformed": 1, "parts": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 99}, "version"),
        ({"kind": int(RecordKind.ORDER)}, "kind"),
        ({"records": memoryview(b"x" * 95)}, "size"),
        ({"first_seq": 0}, "sequence"),
        ({"epoch": 0}, "sequence"),
        ({"records": "text"}, "malformed"),
    ],
)
def test_each_fault_of_a_frame_has_its_reason(change: dict[str, object], reason: str) -> None:
    good = {"version": 1, "kind": int(RecordKind.TICK), "source": "feed", "epoch": 1, "first_seq": 1, "sent_ns": 0}
    good["records"] = records(TICK, 1, 1).tobytes()
    envelope, batch = frames.decode(msgspec.msgpack.encode(list(good.values())), RecordKind.TICK)
    assert (envelope.first_seq, len(batch)) == (1, 1)
    with pytest.raises(FrameError) as error:
        frames.decode(msgspec.msgpack.encode(list({**good, **change}.values())), RecordKind.TICK)
    assert error.value.reason == reason


class Shipper:
    """A lossless link with a consumer that acknowledges what it is given."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str], epoch: int = 3) -> None:
        self.context, self.address = context, address
        self.sender = self.make_sender(epoch)
        self.receiver = self.make_receiver()
        self.causes: list[int] = []
        self.acknowledge = True

    def make_sender(self, epoch: int) -> LogSender:
        log = RingLog(ORDER, CONFIG.log_ring)
        return LogSender(self.context, self.address, RecordKind.ORDER, "risk", epoch, log, CONFIG, required=("exec",))

    def make_receiver(self) -> LogReceiver:
        return LogReceiver(self.context, self.address, RecordKind.ORDER, "exec", CONFIG)

    def step(self) -> None:
        now = now_ns()
        self.sender.serve(now)
        for first, batch in self.receiver.receive(now):
            self.causes += batch["cause_seq"].tolist()
            if self.acknowledge:
                self.receiver.ack(first + len(batch) - 1)
        self.receiver.tend(now)


def test_a_log_arrives_once_and_in_order_through_a_window_smaller_than_it(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    link = Shipper(context, address)
    sent = 0

    def step() -> None:
        nonlocal sent
        sent += link.sender.append(records(ORDER, sent + 1, min(37, 2000 - sent)))
        link.step()

    until(lambda: len(link.causes) >= 2000 and link.sender.acked_seq == 2000, step, seconds=30)
    assert link.causes == list(range(1, 2001))
    assert link.receiver.duplicates == 0


def test_a_full_ring_takes_no_more_and_says_so(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    link = Shipper(context, address)
    link.acknowledge = False
    assert link.sender.append(records(ORDER, 1, 300)) == CONFIG.log_ring
    assert link.sender.append(records(ORDER, 301, 1)) == 0
    until(lambda: len(link.causes) == CONFIG.window, link.step)
    for _ in range(50):
        link.step()
    assert len(link.causes) == CONFIG.window  # never more than the window without an acknowledgement
    assert link.sender.append(records(ORDER, 301, 1)) == 0


def test_an_acknowledgement_says_which_report_it_follows(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    """The last word counts: another journal numbers its reports anew."""
    link = Shipper(context, address)
    link.acknowledge = False
    link.sender.append(records(ORDER, 1, 2))
    until(lambda: len(link.causes) == 2, link.step)
    assert link.sender.follows == (0, 0)
    for seq, follows in ((1, (1, 70)), (2, (2, 3))):
        link.receiver.ack(seq, follows)
        until(lambda seq=seq: link.sender.acked_seq == seq, link.step)  # type: ignore[misc]
        assert link.sender.follows == follows


def test_a_consumer_that_dies_gets_again_what_it_had_not_acknowledged(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    link = Shipper(context, address)
    link.sender.append(records(ORDER, 1, 30))
    link.acknowledge = False
    until(lambda: len(link.causes) == 30, link.step)
    link.receiver.ack(12)
    until(lambda: link.sender.acked_seq == 12, link.step)
    link.receiver.close()
    link.receiver, link.causes, link.acknowledge = link.make_receiver(), [], True
    link.sender.append(records(ORDER, 31, 5))
    until(lambda: bool(link.causes) and link.causes[-1] == 35, link.step)
    assert link.causes == list(range(13, 36))


def test_a_producer_that_comes_back_with_a_new_epoch_is_followed_from_its_first_record(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    link = Shipper(context, address, epoch=3)
    link.sender.append(records(ORDER, 1, 10))
    until(lambda: len(link.causes) == 10, link.step)
    link.sender.close()
    link.sender = link.make_sender(4)
    link.sender.append(records(ORDER, 1000, 3))
    until(lambda: len(link.causes) == 13, link.step)
    assert link.causes[10:] == [1000, 1001, 1002]
    assert link.receiver.epochs == 2


def test_records_lost_at_the_end_of_a_stream_are_sent_again(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    link = Shipper(context, address)
    link.sender.append(records(ORDER, 1, 5))
    until(lambda: len(link.causes) == 5, link.step)
    dropped = lose(link.receiver._inbox, lambda _, frame: not dropped and not isinstance(frame, bytes))
    link.sender.append(records(ORDER, 6, 2))
    until(lambda: len(link.causes) == 7, link.step)
    assert link.causes == list(range(1, 8))
    assert len(dropped) == 1
    assert link.sender.resent >= 2


def test_a_consumer_learns_when_it_has_everything_even_while_more_keeps_coming(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    link = Shipper(context, address)
    sent = link.sender.append(records(ORDER, 1, 50))

    def step() -> None:
        nonlocal sent
        sent += link.sender.append(records(ORDER, sent + 1, 1))
        link.step()

    assert not link.receiver.caught_up
    until(lambda: link.receiver.caught_up, step)
    assert len(link.causes) >= 50


def test_acknowledging_what_never_came_is_refused(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str]
) -> None:
    receiver = LogReceiver(context, address, RecordKind.SIGNAL, "risk", CONFIG)
    with pytest.raises(ValueError, match="cannot acknowledge 1"):
        receiver.ack(1)
    assert SIGNAL.itemsize % 8 == 0


def test_a_path_too_long_for_a_socket_is_refused_with_its_length(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    far = "ipc:///tmp/" + "x" * 120
    with pytest.raises(LinkError, match="allowed are 107"):
        FanoutSender(context, (far, far), RecordKind.TICK, "feed", 1, CONFIG)


# -- frames that are written and read by kernels ---------------------------------------------------------------------


def test_what_is_expected_is_taken_by_the_kernel_alone(
    context: zmq.Context[zmq.Socket[bytes]], address: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the first frame of an epoch and heartbeats are looked at in Python."""
    decoded: list[int] = []

    def decode(payload: bytes, kind: RecordKind) -> Any:
        envelope, batch = frames_decode(payload, kind)
        decoded.append(len(batch))
        return envelope, batch

    frames_decode = frames.decode
    monkeypatch.setattr(frames, "decode", decode)
    link = Shipper(context, address)
    link.sender.send(records(ORDER, 1, 1), now_ns())
    until(lambda: len(link.causes) == 1, link.step)
    ticks = Subscriber(context, (f"{address[0]}.ticks", f"{address[1]}.ticks"))
    feed = FanoutSender(context, (f"{address[0]}.ticks", f"{address[1]}.ticks"), RecordKind.TICK, "feed", 7, CONFIG)

    def heard() -> None:
        feed.tend(now_ns())
        ticks.step()

    until(lambda: ticks.link.connected(now_ns()), heard)
    decoded.clear()
    for first in range(2, 42, 2):
        assert link.sender.send(records(ORDER, first, 2), now_ns()) == 2
        feed.send(records(TICK, first, 2), now_ns())
        until(lambda first=first: link.causes[-1] == first + 1, link.step)  # type: ignore[misc]
        until(lambda first=first: ticks.causes[-1:] == [first + 1], ticks.step)  # type: ignore[misc]
    assert link.causes == list(range(1, 42))
    assert ticks.causes == list(range(2, 42))
    assert not any(decoded)


@pytest.fixture(scope="module")
def pipe() -> Iterator[tuple[Any, Any]]:
    """Two ends of a connection inside this process."""
    with zmq.Context() as context:
        ends = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        ends[0].bind("inproc://frames")
        ends[1].connect("inproc://frames")
        yield ends
        for end in ends:
            end.close(0)


def take(pipe: tuple[Any, Any], payload: bytes, epoch: int, expected: int) -> Any:
    pipe[0].send_multipart((frames.topic(RecordKind.ORDER), payload))
    return _Inbox(pipe[1], RecordKind.ORDER, CONFIG, Counter()).take(epoch, expected)


def payload_of(pipe: tuple[Any, Any], batch: np.ndarray, source: str, epoch: int, first_seq: int, sent: int) -> bytes:
    assert _Outlet(pipe[0], RecordKind.ORDER, source, epoch, 50).send(batch, first_seq, sent) == 0
    topic, payload = pipe[1].recv_multipart()
    assert topic == frames.topic(RecordKind.ORDER)
    return bytes(payload)


numbers = (
    st.integers(1, 2**62) | st.integers(1, 300) | st.sampled_from([2**n + k for n in (7, 8, 16, 32) for k in (-1, 0)])
)


@given(numbers, numbers, numbers, st.integers(1, 50), st.sampled_from(["risk", "x", "n" * 31]))
def test_a_frame_of_the_kernel_is_what_any_reader_of_msgpack_reads(
    pipe: tuple[Any, Any], epoch: int, first_seq: int, sent: int, n: int, source: str
) -> None:
    """Written by the kernel; read by the library, and by the kernel in both forms of integers."""
    batch = records(ORDER, 1, n)
    payload = payload_of(pipe, batch, source, epoch, first_seq, sent)
    envelope, read = frames.decode(payload, RecordKind.ORDER)
    assert (envelope.source, envelope.epoch) == (source, epoch)
    assert (envelope.first_seq, envelope.sent_ns) == (first_seq, sent)
    shortest = msgspec.msgpack.encode((1, int(RecordKind.ORDER), source, epoch, first_seq, sent, batch.tobytes()))
    for form in (payload, shortest):
        assert take(pipe, form, epoch, first_seq).tobytes() == read.tobytes() == batch.tobytes()
        assert take(pipe, form, epoch, first_seq + 1) == form
        assert take(pipe, form, epoch + 1, first_seq) == form
        assert take(pipe, form, 0, first_seq) == form


@given(st.data())
def test_the_kernel_takes_no_frame_that_the_library_refuses(pipe: tuple[Any, Any], data: st.DataObject) -> None:
    """Bytes changed, cut off and added: whoever gets records gets those that `tickpath.common.frames` finds."""
    payload = bytearray(payload_of(pipe, records(ORDER, 1, data.draw(st.integers(0, 3))), "risk", 9, 40, 1_000))
    for at in data.draw(st.lists(st.integers(0, len(payload) - 1), max_size=3)):
        payload[min(at, 60) if data.draw(st.booleans()) else at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(payload)) | st.just(len(payload)))
    damaged = bytes(payload[:end]) + data.draw(st.binary(max_size=3))
    taken = take(pipe, damaged, 9, 40)
    if isinstance(taken, bytes):
        assert taken == damaged
        return
    envelope, read = frames.decode(damaged, RecordKind.ORDER)
    assert (envelope.epoch, envelope.first_seq) == (9, 40)
    assert taken.tobytes() == read.tobytes()
