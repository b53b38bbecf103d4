"""Recording and export: what is in a recording, whatever happened to its writer, and what others read of it."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from services.exec.tests.conftest import Desk, accepted, cancel_order, executed, new_order
from tickpath.cli.control import ControlError, System
from tickpath.cli.export import orders_of, run_export
from tickpath.cli.record import find_sources, run_record
from tickpath.cli.tap import Place, Source, decode, line_of
from tickpath.common.config import load_config
from tickpath.common.instruments import make_table, rows_of, save_instruments
from tickpath.common.protocols.moldudp64 import MoldPacker, heartbeat, session_id
from tickpath.common.recording import (
    TIME_FIELDS,
    Recording,
    RecordingError,
    Segment,
    StreamWriter,
    as_capture,
    is_recording,
    pack,
    unpack,
)
from tickpath.common.records import (
    DATAGRAM,
    DATAGRAM_BYTES,
    NO_PRICE_TICKS,
    ORDER,
    REPORT,
    Action,
    ExecEvent,
    OrderState,
    Side,
    TickFlag,
    Tif,
    format_cl_ord_id,
)
from tickpath.common.taps import STREAMS, Tap
from tickpath.sim.sources.generator import generate_tape
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import DataFileError, Tape

ROOT = Path(__file__).resolve().parents[3]
TABLE = make_table([("AAPL", "0.0001", 100, 1, 1, "USD"), ("BTC", "0.01", 1, "0.00001", "0.00001", "USDT", "0.01")])
ENUMS = {"action": Action, "side": Side, "tif": Tif, "state": OrderState, "event": ExecEvent}


def some(stream: str, first: int, n: int) -> Any:
    """Records in which every field has values that could be, and can be told from any other."""
    rng = np.random.default_rng(first)
    dtype = STREAMS[stream].dtype
    records = np.zeros(n, dtype)
    for name in dtype.names or ():
        if name == "strength":
            records[name] = rng.normal(size=n)
        elif name in ENUMS:
            records[name] = rng.choice(list(ENUMS[name]), n)
        elif name not in ("pad", "crc"):
            records[name] = rng.integers(1, 100, records[name].shape)
    if stream == "reports":
        records["seq"] = np.arange(first, first + n)
    records["recv_ns"] = 10**12 + 1000 * np.arange(first, first + n)
    if dtype == DATAGRAM:
        records["part"], records["length"] = 0, rng.integers(0, 1500, n)
        records["data"] = rng.integers(0, 256, (n, DATAGRAM_BYTES))
        return records
    records["instrument"] = rng.integers(0, len(TABLE), n)
    if stream == "ticks":
        records["flags"] = rng.choice([1, 2, 3, 19, 32], n)
        for name in ("bid_ticks", "ask_ticks", "last_ticks"):
            records[name] = np.where(rng.random(n) < 0.2, NO_PRICE_TICKS, rng.integers(1, 2**31, n))
    if "cl_ord_id" in (dtype.names or ()):
        records["cl_ord_id"] = rng.integers(1, 2**62, n)
    return records


def writer(folder: Path, stream: str, segment_bytes: int = 64 << 20) -> StreamWriter:
    return StreamWriter(folder, stream, STREAMS[stream].dtype, TABLE, epoch=7, segment_bytes=segment_bytes)


def write(folder: Path, stream: str, blocks: int = 3, **options: int) -> Any:
    """A finished recording of blocks of 50 records; returns those."""
    out = writer(folder, stream, **options)
    found = [some(stream, 1 + 50 * block, 50) for block in range(blocks)]
    for block, records in enumerate(found):
        out.write(records, 1 + 50 * block)
    out.close()
    return np.concatenate(found)


def same(some_records: Any, others: Any) -> bool:
    """Equal in every byte that means something."""
    return some_records.dtype == others.dtype and pack(some_records) == pack(others)


# ---- the files


@pytest.mark.parametrize("stream", STREAMS)
def test_what_was_recorded_is_read_back_with_its_numbers(tmp_path: Path, stream: str) -> None:
    """Over several segments; the instrument table and the moment of the clock are in each."""
    records = write(tmp_path, stream, segment_bytes=3000)
    recording = Recording(tmp_path)
    segments = recording.segments(stream)
    assert len(segments) > 1
    assert all(segment.is_complete and segment.path.name.endswith(".rec.zst") for segment in segments)
    assert same(recording.records(stream), records)
    assert [block.first_seq for block in recording.blocks(stream)] == [1, 51, 101]
    assert rows_of(segments[-1].instruments()) == rows_of(TABLE)
    assert segments[0].header["epoch"] == 7
    assert abs(segments[0].unix_offset_ns - (time.time_ns() - time.monotonic_ns())) < 60_000_000_000
    assert segments[0].time_ns[0] > 0


def test_a_segment_is_a_zstd_file_of_its_packed_records(tmp_path: Path) -> None:
    """Any decoder passes over what stands between the records."""
    records = write(tmp_path, "ticks")
    path = next(tmp_path.iterdir())
    with path.open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    assert data == records.tobytes()
    if (zstd := shutil.which("zstd")) is not None:
        done = subprocess.run([zstd, "-dc", str(path)], stdout=subprocess.PIPE, check=True)
        assert done.stdout == records.tobytes()


def test_what_the_recorder_missed_is_part_of_the_recording(tmp_path: Path) -> None:
    """Also at the end, where no record follows."""
    out = writer(tmp_path, "orders")
    out.write(some("orders", 1, 5), 1)
    out.write(some("orders", 9, 2), 9, missed=3)
    out.write(some("orders", 1, 0), 15, missed=4)
    out.close()
    recording = Recording(tmp_path)
    assert recording.missed("orders") == 7
    assert recording.segments("orders")[0].gaps == [(6, 3), (11, 4)]
    assert len(recording.records("orders")) == 7
    assert (out.records, out.missed) == (7, 7)


def test_another_life_of_a_stream_begins_another_segment(tmp_path: Path) -> None:
    out = writer(tmp_path, "signals")
    out.write(some("signals", 1, 5), 1)
    out.begin_epoch(8)
    out.write(some("signals", 1, 5), 1)
    out.close()
    assert [segment.header["epoch"] for segment in Recording(tmp_path).segments("signals")] == [7, 8]


@pytest.mark.parametrize("stream", ["signals", "datagrams"])
def test_whatever_a_killed_recorder_left_is_read_up_to_its_last_whole_block(tmp_path: Path, stream: str) -> None:
    """The file is cut off at every place between and within the last blocks."""
    (tmp_path / "whole").mkdir()
    records = write(tmp_path / "whole", stream, blocks=2)
    whole = next((tmp_path / "whole").iterdir()).read_bytes()
    part = tmp_path / f"{stream}-00001.rec.zst.part"
    ends = set()
    part.write_bytes(whole)
    begin = Segment.open(part)._blocks[0].frame_at  # the header is whole from here on
    for size in [*range(begin - 300, len(whole), len(whole) // 50), len(whole)]:
        part.write_bytes(whole[:size])
        try:
            found = Recording(part).records(stream)
        except RecordingError as error:
            assert "does not begin with the header" in str(error)
            continue
        assert same(found, records[: len(found)])
        ends.add(len(found))
    assert ends == {0, 50, 100}


@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(place: float, bit: int) -> None:
    """Wherever it is: either the recording is refused, or every record is what it was."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = write(folder, "signals", blocks=2)
        path = next(folder.iterdir())
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= 1 << bit
        path.write_bytes(data)
        try:
            found = Recording(folder).records("signals")
        except RecordingError as error:
            assert str(path) in str(error)
        else:
            assert same(found, records)


def test_a_full_disk_is_said_and_leaves_what_was_written(tmp_path: Path) -> None:
    """The system refuses a write in the middle of a block; that block is not left behind in part."""
    out = writer(tmp_path, "ticks")
    out.write(some("ticks", 1, 50), 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (out.bytes_written + 700, hard))
    try:
        with pytest.raises(RecordingError, match="50 records of ticks are recorded and readable"):
            out.write(some("ticks", 51, 50), 51)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (segment,) = Recording(tmp_path).segments("ticks")
    assert (segment.records, segment.torn_bytes, segment.is_complete) == (50, 0, False)


def test_what_is_no_recording_is_refused_with_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="is not a recording"):
        Recording(tmp_path)
    (tmp_path / "x.rec.zst").write_bytes(b"something else, but long enough")
    assert is_recording(tmp_path)
    with pytest.raises(RecordingError, match="does not begin with the header"):
        Recording(tmp_path)
    (tmp_path / "x.rec.zst").unlink()
    write(tmp_path, "ticks")
    with pytest.raises(RecordingError, match="has no orders; it has ticks"):
        Recording(tmp_path).records("orders")
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RecordingError, match="without the mark of a finished one"):
        Recording(tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(-3, 3)), max_size=12))
def test_messages_of_any_length_come_back_as_they_were(sizes: list[tuple[int, int]]) -> None:
    """Through the tap's parts, the packed form and back."""
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name)
        config = load_config(ROOT / "tickpath.toml", run_dir=run_dir, taps={"capture": True, "capture_datagrams": 64})
        tap = Tap(config, "datagrams", 1)
        source = Source(place_of(run_dir), "datagrams", from_oldest=True)
        messages = [(index, line, os.urandom(size)) for index, (size, line) in enumerate(sizes)]
        for recv_ns, line, data in messages:
            tap.put_message(data, recv_ns, line)
        records, missed = source.read()
        assert missed == 0
        out = writer(run_dir, "datagrams")
        out.write(records, 1)
        out.close()
        tap.close()
        assert same(unpack(pack(records), DATAGRAM, len(records)), records)
        if messages:
            assert list(Recording(next(run_dir.glob("*.rec.zst"))).messages()) == messages


# ---- the recorder


def system_of(run_dir: Path) -> System:
    """A system without endpoints."""
    save_instruments(TABLE, run_dir / "instruments.csv")
    return System("127.0.0.1", {"exec": 9}, None, run_dir, "a test")


def place_of(run_dir: Path) -> Place:
    return Place(system_of(run_dir))


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A run_dir in memory where there is one, with an instrument table."""
    root = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="record-", dir=root if root.is_dir() else None))
    save_instruments(TABLE, path / "instruments.csv")
    yield path
    shutil.rmtree(path)


class Recorder:
    """The command, recording what a test shows."""

    def __init__(self, run_dir: Path, *arguments: str, port: str = "9") -> None:
        # Where these tests run in the background of a shell, SIGINT is ignored, which is handed on.
        python = ["env", "--default-signal=INT", sys.executable]
        command = [*python, "-m", "tickpath.cli", "record", "--config", str(ROOT / "tickpath.toml")]
        self.process = subprocess.Popen(
            [*command, "--run-dir", str(run_dir), *arguments],
            env={**os.environ, "TICKPATH_EXEC__HTTP_PORT": port, "NO_COLOR": "1"},  # port 9: nobody is there
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_until_it_records(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "recording " in line:
                return
        raise AssertionError(f"it ended with {self.process.wait()}")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def written(folder: Path, stream: str) -> int:
    """Records in a recording that is being written."""
    return sum(Segment.open(path).records for path in folder.glob(f"{stream}-*"))


def test_a_recorder_that_is_killed_leaves_a_recording_and_harms_nobody(run_dir: Path, tmp_path: Path) -> None:
    """It is stopped first: the tap's count goes on. What it has written by then is readable, in order, whole."""
    tap = Tap(load_config(ROOT / "tickpath.toml", run_dir=run_dir, taps={"records": 1024}), "ticks", 3)
    shown = some("ticks", 1, 300)
    tap.put(shown)
    out = tmp_path / "recording"
    with Recorder(run_dir, "--out", str(out), "--streams", "ticks") as recorder:
        recorder.wait_until_it_records()
        until = time.monotonic() + 60
        while not (list(out.iterdir()) and written(out, "ticks") == 300) and time.monotonic() < until:
            time.sleep(0.02)
        os.kill(recorder.process.pid, signal.SIGSTOP)
        observer = Source(place_of(run_dir), "ticks", from_oldest=False)
        for _ in range(20):
            tap.put(shown)
        assert observer.published == 21 * 300
        os.kill(recorder.process.pid, signal.SIGKILL)
        recorder.process.wait()
    recording = Recording(out)
    (segment,) = recording.segments("ticks")
    assert not segment.is_complete
    assert same(recording.records("ticks"), shown)
    tap.close()


def test_a_recorder_that_is_told_to_stop_finishes_its_segments(run_dir: Path, tmp_path: Path) -> None:
    """What was overwritten before it came is a gap; the report of the command says the same as the files."""
    tap = Tap(load_config(ROOT / "tickpath.toml", run_dir=run_dir, taps={"records": 16}), "signals", 3)
    shown = some("signals", 1, 40)
    tap.put(shown)
    out = tmp_path / "recording"
    with Recorder(run_dir, "--out", str(out), "--json") as recorder:
        recorder.wait_until_it_records()
        recorder.process.send_signal(signal.SIGTERM)
        said, complaints = recorder.process.communicate(timeout=60)
    assert recorder.process.returncode == 0, complaints
    report = json.loads(said)["streams"]
    expected = {"records": 16, "first_seq": 25, "missed": 0, "segments": 1, "bytes": 0}
    assert report["signals"] | {"bytes": 0} == expected
    assert same(Recording(out).records("signals"), shown[-16:])
    assert next(Recording(out).blocks("signals")).first_seq == 25
    tap.close()


def test_what_goes_before_the_first_reading_is_not_missed(run_dir: Path) -> None:
    """A full ring loses its oldest with every new one: a recorder begins behind those. What goes later is a gap."""
    tap = Tap(load_config(ROOT / "tickpath.toml", run_dir=run_dir, taps={"records": 16}), "signals", 3)
    shown = some("signals", 1, 100)
    tap.put(shown[:40])
    source = Source(place_of(run_dir), "signals", from_oldest=True)
    tap.put(shown[40:45])
    records, missed = source.read()
    assert (source.next_seq - len(records), missed, source.missed) == (30, 0, 0)
    tap.put(shown[45:66])
    records, missed = source.read()
    assert (source.next_seq - len(records), missed, source.missed) == (51, 5, 5)
    tap.close()


def test_a_recording_that_begins_late_says_with_which_record(run_dir: Path, tmp_path: Path) -> None:
    """And so does its export; nothing of it is called missed."""
    tap = Tap(load_config(ROOT / "tickpath.toml", run_dir=run_dir, taps={"records": 16}), "signals", 3)
    tap.put(some("signals", 1, 40))
    out = tmp_path / "recording"
    with Recorder(run_dir, "--out", str(out)) as recorder:
        recorder.wait_until_it_records()
        recorder.process.send_signal(signal.SIGINT)
        _, complaints = recorder.process.communicate(timeout=60)
    assert recorder.process.returncode == 0, complaints
    assert "signals: 16 records from number 25 on, the oldest that was still kept" in complaints
    (said,) = (line for line in exported(out, None, tmp_path / "out") if "signals" in line)
    assert "16 signals from number 25 on" in said
    assert "missed" not in said
    tap.close()


def test_what_is_not_recorded_is_one_short_line_each(run_dir: Path, tmp_path: Path) -> None:
    tap = Tap(load_config(ROOT / "tickpath.toml", run_dir=run_dir), "ticks", 3)
    said: list[str] = []
    found = find_sources(place_of(run_dir), [], said.append)
    assert [source.stream for source in found] == ["ticks", "reports"]
    assert said == [
        "not recorded: signals, orders; a system shows them that is started with TICKPATH_TAPS__ENABLED=true",
        "not recorded: datagrams; a system shows them that is started with TICKPATH_TAPS__CAPTURE=true",
    ]
    tap.close()


def test_ctrl_c_before_the_recording_has_begun_is_said(run_dir: Path, tmp_path: Path) -> None:
    """While the command looks for the system it waits for exec's endpoint, which says nothing here."""
    out = tmp_path / "recording"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = str(silent.getsockname()[1])
        with Recorder(run_dir, "--out", str(out), port=port) as recorder:
            silent.settimeout(60)
            asked, _ = silent.accept()
            recorder.process.send_signal(signal.SIGINT)
            said, complaints = recorder.process.communicate(timeout=60)
            asked.close()
    assert recorder.process.returncode == 130
    assert said == ""
    assert complaints == "tickpath: stopped before the recording began: nothing was recorded\n"
    assert not out.exists()


MISTAKES = {
    "a stream that is none": (["tick"], "new", "allowed are ticks, signals"),
    "no capture": (["datagrams"], "new", "TICKPATH_TAPS__CAPTURE=true"),
    "no tap": (["orders"], "new", r"\[taps\] enabled = true"),
    "a folder that is not empty": (["reports"], ".", "new or empty"),
    "a folder in a file": (["reports"], "instruments.csv/new", "Not a directory"),
}


@pytest.mark.parametrize(("streams", "out", "said"), MISTAKES.values(), ids=MISTAKES.keys())
def test_what_cannot_be_recorded_is_said_with_what_to_do(
    run_dir: Path, streams: list[str], out: str, said: str
) -> None:
    with pytest.raises(ControlError, match=said):
        run_record(
            system_of(run_dir), run_dir / out, streams, seconds=1, segment_bytes=1 << 20, as_json=False,
            say=lambda _: None,
        )  # fmt: skip


def test_the_journal_is_followed_from_its_first_entry_or_from_now(run_dir: Path) -> None:
    """Reports have no ring: what exec has written is what there is."""
    desk = Desk(run_dir / "journal" / "20260101")
    desk.accept(new_order(1))
    place = place_of(run_dir)
    everything, new = (Source(place, "reports", from_oldest=oldest) for oldest in (True, False))
    desk.accept(new_order(2))
    desk.receive(accepted(1))
    assert everything.read()[0]["event"].tolist() == [ExecEvent.SEND, ExecEvent.SEND, ExecEvent.ACKNOWLEDGED]
    assert new.read()[0]["cl_ord_id"].tolist()[0] != 0
    assert (new.next_seq, new.missed) == (4, 0)
    desk.close()


@pytest.mark.parametrize("stream", ["ticks", "signals", "orders", "reports"])
def test_a_decoded_record_has_decimals_and_names(stream: str) -> None:
    """JSON takes it; the line for people has the symbol and the price."""
    for record in some(stream, 1, 20):
        found = decode(stream, record, TABLE)
        json.dumps(found)
        symbol = TABLE.symbols[record["instrument"]]
        assert found["symbol"] == symbol
        if stream == "ticks":
            bid = int(record["bid_ticks"])
            expected = None if bid == NO_PRICE_TICKS else TABLE.price(int(record["instrument"]), bid)
            assert (found["bid"] and Decimal(found["bid"])) == expected
            assert found["flags"] == [flag.name for flag in TickFlag if record["flags"] & flag]
        else:
            assert Decimal(found["price"]) == TABLE.price(int(record["instrument"]), int(record["price_ticks"]))
            assert len(found["price"].partition(".")[2]) == {"AAPL": 4, "BTC": 2}[symbol]
            assert found["side"] == Side(int(record["side"])).name
        assert symbol in line_of(stream, 5, found)


@pytest.mark.parametrize(("side", "shown"), [(int(Side.SELL), "CANCEL SELL"), (0, "CANCEL")])
def test_the_line_of_a_cancel_has_what_a_cancel_has(side: int, shown: str) -> None:
    """A signal takes back all open orders of a side, or of both; an order to cancel names the one that it means."""
    signal_, order = some("signals", 1, 1)[0], some("orders", 1, 1)[0]
    for record in (signal_, order):
        record["action"], record["side"], record["tif"] = Action.CANCEL, side, Tif.DAY
        record["price_ticks"], record["qty_lots"] = 0, 0
    line = line_of("signals", 1, decode("signals", signal_, TABLE))
    assert shown in line
    for part in ("SELL", "0") if side == 0 else ():
        assert f" {part} " not in line
    assert "DAY" not in line
    assert "@" not in line
    line = line_of("orders", 1, decode("orders", order, TABLE))
    assert format_cl_ord_id(int(order["cl_ord_id"])).decode() in line
    assert "DAY" not in line


# ---- playing it back


def datagrams_of(tape: Tape, *, lines: int = 1) -> list[tuple[int, int, bytes]]:
    """A tape as MoldUDP64 on some lines: (time, line, packet)."""
    found = []
    packer = MoldPacker(session_id("RECORDED"), max_packet=1000)
    packets = []
    for index in range(len(tape)):
        if not packer.append(tape.message(index)):
            packets.append(bytes(packer.packet()))
            packer.clear()
            assert packer.append(tape.message(index))
    packets.append(bytes(packer.packet()))
    packets.append(bytes(heartbeat(session_id("RECORDED"), len(tape) + 1)))
    for index, packet in enumerate(packets):
        found += [(1000 * index, line, packet) for line in range(lines)]
    return found


def record_datagrams(folder: Path, datagrams: list[tuple[int, int, bytes]]) -> None:
    records = np.zeros(len(datagrams), DATAGRAM)
    for record, (recv_ns, line, data) in zip(records, datagrams, strict=True):
        record["recv_ns"], record["line"], record["length"] = recv_ns, line, len(data)
        record["data"][: len(data)] = np.frombuffer(data, np.uint8)
    out = writer(folder, "datagrams", segment_bytes=100_000)
    for first in range(0, len(records), 200):
        out.write(records[first : first + 200], first + 1)
    out.close()


def test_recorded_datagrams_of_two_lines_are_the_tape_that_was_sent(tmp_path: Path) -> None:
    """Each line lost other packets and one brought some late: together they have everything, each message once."""
    tape = generate_tape(3, seconds=0.5, rate=4000)
    both = datagrams_of(tape, lines=2)
    kept = [item for index, item in enumerate(both) if index % 14 not in (3, 6)]
    kept[10], kept[30] = kept[30], kept[10]
    record_datagrams(tmp_path, kept)
    played = load_tape([tmp_path])
    assert bytes(played.data) == bytes(tape.data)
    assert played.symbols.keys() <= set(TABLE.symbols) | tape.symbols.keys()
    assert played.findings["repeated_messages"] > 0
    assert "missing_messages" not in played.findings
    assert played.terms["BTC"].tick_size == "0.01"


def test_recorded_datagrams_with_a_hole_say_what_is_missing(tmp_path: Path) -> None:
    tape = generate_tape(3, seconds=0.2, rate=4000)
    datagrams = datagrams_of(tape)
    del datagrams[4]
    record_datagrams(tmp_path, datagrams)
    played = load_tape([tmp_path])
    assert len(played) + played.findings["missing_messages"] == len(tape)
    assert played.findings["gaps"] == 1


def test_recorded_frames_of_a_venue_are_played_like_its_raw_recording(tmp_path: Path) -> None:
    """As lines, and straight from the recording: the same tape, book for book."""
    frames = [
        b'{"e":"depthUpdate","E":0,"s":"BTCUSDT","U":9,"u":10,"b":[["100.00","2.0"]],"a":[]}',
        b'{"lastUpdateId":10,"bids":[["100.00","2.0"],["99.50","1.5"]],"asks":[["100.50","1.0"]]}',
        b'{"e":"depthUpdate","E":1,"s":"BTCUSDT","U":11,"u":11,"b":[["100.00","0.5"]],"a":[["101.00","4.0"]]}',
        b'{"e":"trade","E":2,"s":"BTCUSDT","t":1,"p":"100.50","q":"0.5","T":2,"m":false}',
        b'{"e":"depthUpdate","E":3,"s":"BTCUSDT","U":12,"u":13,"b":[["98.50","3.0"]],"a":[["100.50","0.0"]]}',
    ]
    records = np.zeros(len(frames), DATAGRAM)
    for index, (record, frame) in enumerate(zip(records, frames, strict=True)):
        record["recv_ns"], record["length"] = time.monotonic_ns() + 1_000_000 * index, len(frame)
        record["data"][: len(frame)] = np.frombuffer(frame, np.uint8)
    (tmp_path / "recording").mkdir()
    out = writer(tmp_path / "recording", "frames")
    out.write(records, 1)
    out.close()
    exported(tmp_path / "recording", None, tmp_path / "out", "tsjson")
    lines = (tmp_path / "out" / "frames.tsjson").read_bytes().splitlines()
    assert [line.partition(b" ")[2] for line in lines] == frames
    tape, same_tape = (load_tape([path]) for path in (tmp_path / "recording", tmp_path / "out" / "frames.tsjson"))
    assert len(tape) > len(frames)
    assert tape.counts["P"] == 1
    assert bytes(tape.data) == bytes(same_tape.data)


def test_a_recording_without_datagrams_cannot_be_played_and_says_why(tmp_path: Path) -> None:
    write(tmp_path, "ticks")
    with pytest.raises(DataFileError, match=r"capture = true"):
        load_tape([tmp_path])


# ---- export


def exported(source: Path | None, journal: Path | None, out: Path, kind: str = "parquet") -> list[str]:
    said: list[str] = []
    instruments = out.parent / "instruments.csv"
    save_instruments(TABLE, instruments)
    assert run_export(source, journal, out, kind, instruments, None, said.append) == 0
    return said


def records_of(frame: pd.DataFrame, dtype: np.dtype[Any]) -> Any:
    """The records again, from the columns of a frame."""
    records = np.zeros(len(frame), dtype)
    for name in dtype.names or ():
        if name in ENUMS:
            records[name] = [ENUMS[name][value] if value else 0 for value in frame[name]]
        elif name.endswith("_ticks"):
            records[name] = frame[name].fillna(NO_PRICE_TICKS).astype("int64")
        elif name not in ("pad", "crc"):
            records[name] = frame[name]
    return records


@pytest.mark.parametrize("stream", ["ticks", "signals", "orders", "reports"])
def test_exported_columns_give_the_records_back_exactly(tmp_path: Path, stream: str) -> None:
    """Read by pandas. Prices are the nearest float64 of the exact decimal."""
    (tmp_path / "recording").mkdir()
    records = write(tmp_path / "recording", stream, segment_bytes=3000)
    exported(tmp_path / "recording", None, tmp_path / "out")
    frame = pd.read_parquet(tmp_path / "out" / f"{stream}.parquet", dtype_backend="numpy_nullable")
    assert np.array_equal(records_of(frame, records.dtype), records)
    assert frame["symbol"].tolist() == [TABLE.symbols[i] for i in records["instrument"]]
    assert frame["symbol"].dtype == "category"
    name, shown = ("bid_ticks", "bid_price") if stream == "ticks" else ("price_ticks", "price")
    for record, price in zip(records, frame[shown], strict=True):
        ticks = int(record[name])
        exact = None if ticks == NO_PRICE_TICKS else float(TABLE.price(int(record["instrument"]), ticks))
        assert (None if pd.isna(price) else price) == exact
    lots = "bid_lots" if stream == "ticks" else "qty_lots"
    for record, quantity in zip(records, frame[lots.replace("lots", "qty").replace("qty_qty", "qty")], strict=True):
        assert quantity == float(int(record[lots]) * Decimal(TABLE.texts[record["instrument"]][0]))
    times = frame["time"].astype("int64").to_numpy()
    stamp = {"ticks": "decoded_ns", "signals": "signalled_ns", "orders": "approved_ns", "reports": "recv_ns"}[stream]
    offset = Recording(tmp_path / "recording").segments(stream)[0].unix_offset_ns
    assert np.abs(times - records[stamp] - offset).max() < 1_000_000_000
    if "cl_ord_id" in frame:
        assert frame["cl_ord_id_text"].tolist() == [format_cl_ord_id(int(i)).decode() for i in records["cl_ord_id"]]


def test_csv_has_the_same_columns_and_values(tmp_path: Path) -> None:
    (tmp_path / "recording").mkdir()
    records = write(tmp_path / "recording", "orders")
    exported(tmp_path / "recording", None, tmp_path / "out", "csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "orders.csv").read_text())))
    assert [int(row["qty_lots"]) for row in rows] == records["qty_lots"].tolist()
    assert [row["side"] for row in rows] == [Side(side).name for side in records["side"].tolist()]
    assert [float(row["price"]) for row in rows] == [
        float(TABLE.price(int(r["instrument"]), int(r["price_ticks"]))) for r in records
    ]
    assert rows[0]["time"].endswith("Z")


def test_the_journal_is_exported_without_a_recording(tmp_path: Path) -> None:
    """All reports, and as orders what exec sent."""
    desk = Desk(tmp_path / "journal" / "20260101")
    desk.accept(new_order(1), new_order(2))
    desk.receive(accepted(1), accepted(2), executed(1, 30))
    desk.accept(cancel_order(2))
    entries = np.concatenate([desk.journal.read(seq, 1) for seq in range(1, desk.journal.next_seq)])
    desk.close()
    exported(None, tmp_path / "journal", tmp_path / "out")
    frame = pd.read_parquet(tmp_path / "out" / "reports.parquet", dtype_backend="numpy_nullable")
    entries["crc"] = 0
    assert np.array_equal(records_of(frame, REPORT), entries)
    orders = pd.read_parquet(tmp_path / "out" / "orders.parquet", dtype_backend="numpy_nullable")
    expected, seqs = orders_of(entries)
    assert orders["action"].tolist() == ["NEW", "NEW", "CANCEL"]
    assert np.array_equal(records_of(orders, ORDER), expected)
    assert orders["seq"].tolist() == seqs.tolist()
    assert "time" not in orders


def test_exported_captures_play_like_the_recording(tmp_path: Path) -> None:
    """Datagrams become a pcap file, for the programs that read those."""
    tape = generate_tape(4, seconds=0.2, rate=4000)
    (tmp_path / "recording").mkdir()
    record_datagrams(tmp_path / "recording", datagrams_of(tape))
    exported(tmp_path / "recording", None, tmp_path / "out", "pcap")
    assert bytes(load_tape([tmp_path / "out" / "datagrams.pcap"]).data) == bytes(tape.data)


def test_what_a_capture_cannot_hold_is_left_out() -> None:
    """A frame that is longer than any datagram."""
    pieces = list(as_capture([(1, 0, b"x" * 65_508), (2, 0, b"yes")], 0, 26400))
    assert len(pieces) == 2
    assert pieces[1].endswith(b"yes")


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    (tmp_path / "recording").mkdir()
    write(tmp_path / "recording", "datagrams")
    for kind, source, said in (
        ("parquet", tmp_path / "recording", "--format pcap"),
        ("xml", tmp_path / "recording", "allowed are parquet, csv, pcap"),
        ("csv", tmp_path / "nothing", "cannot read"),
    ):
        with pytest.raises(ControlError, match=said):
            exported(source, None, tmp_path / "out", kind)
    with pytest.raises(ControlError, match="no journal"):
        exported(None, tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ControlError, match="has no frames"):
        exported(tmp_path / "recording", None, tmp_path / "out", "tsjson")
    assert not (tmp_path / "out").exists()


def test_the_dtypes_of_all_streams_have_a_time() -> None:
    """Streams and the stamps that locate their records are two tables of different modules."""
    for stream, (dtype, _) in STREAMS.items():
        assert TIME_FIELDS[stream] in (dtype.names or ())
        assert "recv_ns" in (dtype.names or ())
