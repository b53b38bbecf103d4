"""Loading recorded ITCH 5.0: byte for byte, with clear errors, and merged by time."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tickpath.common.instruments import load_instruments
from tickpath.common.protocols import itch50
from tickpath.sim.sources.files import check_files
from tickpath.sim.sources.load import load_tape
from tickpath.sim.sources.tape import FINDINGS, DataFileError, Tape, write_instruments

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "itch"
AAPL = DATA / "nasdaq_itch50_20200130_AAPL_first10000.itch"
HEAD = DATA / "nasdaq_itch50_20200130_head_69515.itch.zst"
ORDERS = DATA / "nasdaq_itch50_20190730_0400_orders500.itch"

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the recorded market data is not here: {DATA}")

T0 = 34_200_000_000_000


def framed(*messages: bytes) -> bytes:
    return b"".join(itch50.frame(message) for message in messages)


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def day(symbol: str = "AAPL", locate: int = 1, ref: int = 1, at: int = T0) -> bytes:
    return framed(
        itch50.stock_directory(locate, at, symbol),
        itch50.add_order(locate, at + 1000, ref, "B", 100, symbol, 1_000_000),
        itch50.order_replace(locate, at + 2000, ref, ref + 1, 50, 1_000_100),
        itch50.order_executed(locate, at + 3000, ref + 1, 50, 9),
        itch50.trade(locate, at + 4000, 10, symbol, 1_000_200, 10),
    )


def messages(tape: Tape) -> list[dict[str, object]]:
    return [itch50.decode(tape.message(i)) for i in range(len(tape))]


@needs_data
@pytest.mark.parametrize("path", [AAPL, HEAD, ORDERS], ids=lambda path: path.name)
def test_recorded_files_load_byte_for_byte_and_agree_with_their_oracle(path: Path) -> None:
    oracle = json.loads((path.parent / (path.name + ".oracle.json")).read_text())
    raw = path.read_bytes()
    if path.suffix == ".zst":
        raw = zstandard.ZstdDecompressor().stream_reader(raw).read()
    tape = load_tape([path])
    assert tape.data.tobytes() == raw
    assert len(tape) == oracle["messages"]
    assert tape.counts == oracle["count_by_type"]
    assert tape.findings == {}
    assert (int(tape.time_ns[0]), int(tape.time_ns[-1])) == (oracle["first_ts_ns"], oracle["last_ts_ns"])
    assert len(tape.symbols) == oracle["symbols_with_orders_or_trades"]
    assert tape.symbols == {
        symbol: facts["stock_locate"]
        for symbol, facts in oracle.get("per_symbol", {}).items()
        if set(facts["count_by_type"]) & set("AFECXDUPQ")
    }
    assert [bytes(m) for m in itch50.frames(raw)] == [tape.message(i) for i in range(len(tape))]


@needs_data
@pytest.mark.parametrize("name", ["plain.dat", "a.itch.gz", "wrongly_named.itch"])
def test_compression_is_told_by_content_whatever_the_name(tmp_path: Path, name: str) -> None:
    raw = AAPL.read_bytes()
    data = raw if name.startswith("plain") else gzip.compress(raw, 1)
    assert load_tape([written(tmp_path, name, data)]).data.tobytes() == raw


def test_several_zstd_frames_are_one_file(tmp_path: Path) -> None:
    compress = zstandard.ZstdCompressor().compress
    raw = day()
    path = written(tmp_path, "two.itch.zst", compress(raw[:50]) + compress(raw[50:]))
    assert load_tape([path]).data.tobytes() == raw


@pytest.mark.parametrize("cut", [3, 10, 60])
@pytest.mark.parametrize("compress", [zstandard.ZstdCompressor().compress, gzip.compress])
def test_a_cut_off_archive_is_refused(tmp_path: Path, compress: object, cut: int) -> None:
    data = compress(day())  # type: ignore[operator]
    path = written(tmp_path, "cut.itch.zst", data[:-cut])
    with pytest.raises(DataFileError, match="damaged or truncated"):
        load_tape([path])


def test_missing_file_directory_and_empty_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="no data file"):
        load_tape([])
    with pytest.raises(DataFileError, match=r"gone\.itch: there is no such file"):
        load_tape([tmp_path / "gone.itch"])
    with pytest.raises(DataFileError, match="is a directory"):
        load_tape([tmp_path])
    with pytest.raises(DataFileError, match="is empty"):
        load_tape([written(tmp_path, "empty.itch", b"")])


@given(st.data())
@settings(max_examples=200)
def test_every_cut_is_found_at_the_message_that_it_is_in(tmp_path_factory: pytest.TempPathFactory, data) -> None:  # type: ignore[no-untyped-def]
    raw = day()
    starts = np.cumsum([0] + [len(m) + 2 for m in itch50.frames(raw)])
    cut = data.draw(st.integers(1, len(raw) - 1).filter(lambda at: at not in starts))
    message = int(np.searchsorted(starts, cut)) - 1
    path = written(tmp_path_factory.getbasetemp(), "cut.itch", raw[:cut])
    with pytest.raises(DataFileError) as caught:
        load_tape([path])
    if cut > starts[1]:
        assert "truncated" in str(caught.value)
    assert message == 0 or f"message {message + 1}, which begins at byte {starts[message]}" in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"34200.004241176,1,16113575,18,5853300,1\n",
        b"\x00\x24" + b"Z" * 36,
        b"\x00\x25" + itch50.add_order(1, T0, 1, "B", 1, "A", 1) + b" ",
        b"\x00\x00",
        bytes(1000),
    ],
)
def test_what_is_not_itch_is_refused_with_what_is_allowed(tmp_path: Path, data: bytes) -> None:
    """By the reader, and by the look before it."""
    path = written(tmp_path, "x.itch", data)
    for read in (load_tape, check_files):
        with pytest.raises(DataFileError, match=r"this is not ITCH 5\.0: .*allowed: NASDAQ TotalView-ITCH"):
            read([path])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_what_is_nothing_is_not_called_bad_itch(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """ITCH is what is left when nothing else fits: plain text is none of the kinds, and all kinds are named."""
    path = written(tmp_path, "hello.txt", pack(b"hello world\n"))
    for read in (load_tape, check_files):
        with pytest.raises(DataFileError, match=r"none of the kinds .*ITCH.*LOBSTER.*DBN.*\.tsjson.*tickpath record"):
            read([path])


@needs_data
def test_a_look_lets_every_recorded_file_pass() -> None:
    files = [path for path in DATA.parent.glob("*/*") if path.suffix in (".zst", ".itch")]
    assert len(files) > 20
    check_files(files)


def test_a_look_finds_what_cannot_be_read(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "gone.itch", "there is no such file"),
        (tmp_path, "is a directory"),
        (written(tmp_path, "empty.itch", b""), "is empty"),
        (written(tmp_path, "damaged.itch.zst", b"\x28\xb5\x2f\xfd" + bytes(100)), "damaged"),
        (written(tmp_path, "damaged.itch.gz", b"\x1f\x8b" + bytes(100)), "damaged"),
    ):
        with pytest.raises(DataFileError, match=said):
            check_files([path])


def test_a_message_shorter_than_its_type_is_damage(tmp_path: Path) -> None:
    path = written(tmp_path, "x.itch", day() + b"\x00\x12" + itch50.order_delete(1, T0, 1)[:18] + day())
    with pytest.raises(
        DataFileError, match=r"message 6, which begins at byte \d+, has 18 bytes; type 'D' needs at least 19"
    ):
        load_tape([path])


def test_unknown_types_longer_messages_and_the_end_mark_are_taken(tmp_path: Path) -> None:
    odd = itch50.frame(b"z" + day()[3:20]) + itch50.frame(itch50.order_delete(1, T0 + 5000, 1) + b"new field")
    path = written(tmp_path, "x.itch", day() + odd + b"\x00\x00")
    tape = load_tape([path])
    assert tape.data.tobytes() == day() + odd
    assert tape.counts["z"] == 1
    assert tape.findings["unknown_types"] == 1
    assert tape.findings["end_marks"] == 1


def test_times_that_go_back_are_reported_and_never_played_backwards(tmp_path: Path) -> None:
    path = written(tmp_path, "x.itch", day(at=T0 + 10_000) + day(ref=5))
    tape = load_tape([path])
    assert tape.findings == {"times_back": 1}
    assert (np.diff(tape.time_ns) >= 0).all()
    assert set(tape.findings) <= set(FINDINGS)


def test_merging_keeps_time_order_and_gives_each_symbol_its_own_locate_and_references(tmp_path: Path) -> None:
    first = written(tmp_path, "a.itch", day("AAPL", 7, 1))
    second = written(tmp_path, "b.itch", day("MSFT", 7, 1, T0 + 500))
    tape = load_tape([first, second])
    assert tape.symbols["AAPL"] == 7
    assert tape.symbols["MSFT"] not in (0, 7)
    assert (np.diff(tape.time_ns) >= 0).all()
    by_symbol = {s: [m for m in messages(tape) if m["stock_locate"] == n] for s, n in tape.symbols.items()}
    assert by_symbol["AAPL"] == [itch50.decode(m) for m in itch50.frames(day("AAPL", 7, 1))]
    shift = by_symbol["MSFT"][1]["order_ref"] - 1  # type: ignore[operator]
    assert shift >= 2
    wanted = [itch50.decode(m) for m in itch50.frames(day("MSFT", tape.symbols["MSFT"], 1 + shift, T0 + 500))]
    assert by_symbol["MSFT"] == wanted
    assert tape.findings == {"locates_rewritten": 5, "references_rewritten": 3}


def test_merging_files_that_agree_rewrites_nothing(tmp_path: Path) -> None:
    one, two = day("AAPL", 7, 1), day("MSFT", 8, 10, T0 + 10_000)
    tape = load_tape([written(tmp_path, "b.itch", two), written(tmp_path, "a.itch", one)])
    assert tape.data.tobytes() == one + two
    assert tape.findings == {}
    assert tape.counts == {"R": 2, "A": 2, "U": 2, "E": 2, "P": 2}


def test_one_symbol_has_one_locate_in_a_merge(tmp_path: Path) -> None:
    tape = load_tape([
        written(tmp_path, "a.itch", day("AAPL", 7, 1)),
        written(tmp_path, "b.itch", day("AAPL", 9, 10) + day("MSFT", 7, 20)),
    ])  # fmt: skip
    assert tape.symbols["AAPL"] == 7
    assert len({tape.symbols["MSFT"], 7}) == 2


@needs_data
def test_two_recorded_days_play_together(tmp_path: Path) -> None:
    tape = load_tape([AAPL, ORDERS])
    assert len(tape) == 10_500
    assert len(set(tape.symbols.values())) == len(tape.symbols) == 189 + ("AAPL" not in load_tape([ORDERS]).symbols)
    offsets = [len(m) + 2 for m in itch50.frames(tape.data.tobytes())]
    assert np.array_equal(np.cumsum([0, *offsets]), tape.offsets)


def test_the_instrument_table_of_a_tape_loads(tmp_path: Path) -> None:
    tape = load_tape([written(tmp_path, "a.itch", day("MSFT", 2, 5) + day("AAPL", 7, 1, T0 + 9000))])
    write_instruments(tape, tmp_path / "instruments.csv")
    table = load_instruments(tmp_path / "instruments.csv")
    assert table.symbols == ("AAPL", "MSFT")
    assert (table.array["price_step_ticks"] == 100).all()
    assert (table.array["price_units_per_tick"] == 1).all()


def test_a_tape_without_symbols_has_no_instrument_table(tmp_path: Path) -> None:
    tape = load_tape([written(tmp_path, "a.itch", framed(itch50.system_event(T0, "O")))])
    with pytest.raises(DataFileError, match="no instrument table"):
        write_instruments(tape, tmp_path / "instruments.csv")
