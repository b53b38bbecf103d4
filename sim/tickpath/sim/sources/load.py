"""Making a tape of recorded files: ITCH 5.0 byte for byte, other formats re-encoded, several files merged by time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from tickpath.common.kernels.itch import count_frames
from tickpath.common.protocols.itch50 import LAYOUTS, SIZES
from tickpath.common.recording import is_recording
from tickpath.sim.sources.files import ALLOWED, Format, format_of, has_frames_name, not_itch, read_data
from tickpath.sim.sources.kernels import index as kernels
from tickpath.sim.sources.recording import has_frames, read_recording
from tickpath.sim.sources.tape import Bytes, DataFileError, Ints, Tape, Terms

_N_LOCATES: Final = 1 << 16

_SIZES: Final = np.array(SIZES, np.int64)
_SYMBOL_AT: Final = np.array(
    [LAYOUTS[chr(i)].offset.get("stock", 0) if chr(i) in LAYOUTS else 0 for i in range(256)], np.int64
)


def load_tape(files: Sequence[Path]) -> Tape:
    """The tape of one or more recorded files, which play together, merged by time.

    Formats, plain or compressed (`files.format_of` tells them apart, `docs/data.md` says how each is mapped): ITCH
    5.0; pcap and pcapng captures of it (`tickpath.sim.sources.pcap`) or of CME MDP 3.0 (`.mdp3`); LOBSTER message
    files, with the orderbook file beside them when there is one (`.lobster`); Databento market by order (`.dbn`);
    trades and quotes as CSV (`.ticks`); WebSocket frames of crypto venues (`.crypto`), of which several files of one
    venue are one recording.

    A single ITCH file is never touched: the tape is the file, byte for byte. Of several files, messages of equal
    time keep the order of the files, and two things are rewritten, in place and nothing else: the stock locate,
    in files after the first, where it means another symbol in an earlier file or the symbol has another one
    there; and the order references of a whole file (A F E C X D U, and P where not 0), by one constant, where it
    adds an order under a reference that an earlier file has used. Match numbers and tracking numbers stay.

    Raises DataFileError.
    """
    if not files:
        msg = f"no data file was given; {ALLOWED}"
        raise DataFileError(msg)
    if all(_is_frames(Path(path)) for path in files):
        from tickpath.sim.sources.crypto import load_recordings  # noqa: PLC0415 - as in _load

        return load_recordings([Path(path) for path in files])
    tapes: list[_File] = [_load(Path(path), number) for number, path in enumerate(files)]
    return tapes[0].tape if len(tapes) == 1 else _merge(tapes)


class _File:
    """One loaded file: its tape, and the symbol (as a number) and the flags of each stock locate."""

    def __init__(self, tape: Tape, path: Path, symbols: Ints, flags: Ints) -> None:
        self.tape = tape
        self.path = path
        self.symbols = symbols
        self.flags = flags


def _load(path: Path, number: int) -> _File:
    """One file; `number` counts from 0. The readers are imported here: their kernels take seconds to compile."""
    if is_recording(path) and not has_frames(path):
        messages, findings, terms = read_recording(path)
        file = _index(path, messages, len(messages), f"recording {path.name}", findings)
        file.tape = replace(file.tape, terms=terms)
        return file
    if _is_frames(path):
        from tickpath.sim.sources.crypto import load_recordings  # noqa: PLC0415

        return _encoded(path, load_recordings([path]))
    data = read_data(path)
    match format_of(path, data):
        case Format.ITCH:
            return _index(path, data, _check(path, data), f"ITCH 5.0 {path.name}", {})
        case Format.CAPTURE:
            from tickpath.sim.sources.pcap import has_messages, read_capture, read_packets  # noqa: PLC0415

            packets, findings = read_packets(path, data)
            if not has_messages(packets):
                from tickpath.sim.sources.mdp3 import has_mdp3, load_mdp3  # noqa: PLC0415

                if has_mdp3(data, packets):
                    return _encoded(path, load_mdp3(path, data, packets, findings, number + 1))
            messages, findings = read_capture(path, data, packets, findings)
            return _index(path, messages, len(messages), f"capture {path.name}", findings)
        case Format.LOBSTER:
            from tickpath.sim.sources.lobster import load_lobster  # noqa: PLC0415

            return _encoded(path, load_lobster(path, data, number + 1))
        case Format.DBN:
            from tickpath.sim.sources.dbn import load_dbn  # noqa: PLC0415

            return _encoded(path, load_dbn(path, data, number + 1))
        case kind:
            from tickpath.sim.sources.ticks import load_ticks  # noqa: PLC0415

            return _encoded(path, load_ticks(path, data, kind, number + 1))


def _is_frames(path: Path) -> bool:
    """Whether frames of a WebSocket are in a file, by its name, or in a recording."""
    return has_frames(path) or has_frames_name(path)


def _encoded(path: Path, tape: Tape) -> _File:
    """A tape that a reader made: its symbols are all that there are."""
    symbols, flags = np.zeros(_N_LOCATES, np.int64), np.zeros(_N_LOCATES, np.int64)
    for symbol, locate in tape.symbols.items():
        symbols[locate] = int.from_bytes(symbol.encode("ascii").ljust(8), "big")
        flags[locate] = kernels.SEEN | kernels.ACTIVE
    return _File(tape, path, symbols, flags)


def _check(path: Path, data: Bytes) -> int:
    """The byte at which the messages of ITCH data end. Raises DataFileError."""
    found = np.zeros(4, np.int64)
    kernels.measure(data, _SIZES, found)
    fault, byte, message, end = (int(value) for value in found)
    if fault != kernels.OK:
        raise DataFileError(f"{path}: {_complaint(path, data, fault, byte, message)}")
    return end


def _index(path: Path, data: Bytes, end: int, source: str, findings: dict[str, int]) -> _File:
    """Index the ITCH messages in ``data[:end]``, which are well formed."""
    n = count_frames(data, 0, end)
    offsets = np.empty(n + 1, np.int64)
    time_ns = np.empty(n, np.int64)
    counts = np.zeros(256, np.int64)
    symbols = np.zeros(_N_LOCATES, np.int64)
    flags = np.zeros(_N_LOCATES, np.int64)
    times_back = kernels.index(data[:end], _SYMBOL_AT, offsets, time_ns, counts, symbols, flags)
    findings = findings | {
        "times_back": times_back,
        "unknown_types": int(counts[_SIZES == 0].sum()),
        "end_marks": int(end < len(data)),
    }
    active = np.nonzero((flags & kernels.ACTIVE).astype(bool) & (symbols != 0))[0]
    tape = Tape(
        data=data[:end],
        offsets=offsets,
        time_ns=time_ns,
        symbols={_symbol(symbols[locate]): int(locate) for locate in active},
        source=source,
        counts={chr(kind): int(counts[kind]) for kind in np.nonzero(counts)[0]},
        findings={key: value for key, value in findings.items() if value},
    )
    return _File(tape, path, symbols, flags)


def _symbol(number: int) -> str:
    return int(number).to_bytes(8, "big", signed=True).decode("latin-1").rstrip(" ")


def _complaint(path: Path, data: Bytes, fault: int, byte: int, message: int) -> str:
    left = len(data) - byte - 2
    where = f"message {message + 1}, which begins at byte {byte}"
    if left < 0:
        return f"the file is truncated: it ends inside the length of {where}"
    length = int(data[byte]) << 8 | int(data[byte + 1])
    kind = chr(data[byte + 2]) if left else ""
    if fault == kernels.NOT_ITCH:
        return not_itch(path, data)
    if fault == kernels.TRUNCATED:
        return f"the file is truncated: {where}, should have {length} bytes, and {left} follow"
    allowed = SIZES[ord(kind)] if kind and length >= 11 else 11
    return (
        f"{where}, has {length} bytes; type {kind!r} needs at least {allowed}."
        " The file is damaged there or not ITCH 5.0"
    )


def _merge(files: list[_File]) -> Tape:
    """One tape of several; the tapes of `files` are used up (rewritten in place)."""
    taken: dict[int, int] = {}  # locate -> symbol as a number (0: not known)
    locate_of: dict[int, int] = {}  # symbol as a number -> locate
    refs = np.empty(0, np.int64)
    findings: Counter[str] = Counter()
    symbols: dict[str, int] = {}
    terms: dict[str, Terms] = {}
    for file in files:
        tape = file.tape
        _agree(file, symbols, terms)
        terms |= tape.terms
        locates = _assign(file, taken, locate_of)
        if (locates != np.arange(_N_LOCATES)).any():
            findings["locates_rewritten"] += kernels.rewrite_locates(tape.data, tape.offsets, locates)
        refs = _separate_references(file, refs, findings)
        findings.update(tape.findings)
        symbols |= {symbol: int(locates[locate]) for symbol, locate in tape.symbols.items()}
    data = np.concatenate([file.tape.data for file in files])
    starts = np.cumsum([0] + [len(file.tape.data) for file in files])
    offsets = np.concatenate(
        [file.tape.offsets[:-1] + start for file, start in zip(files, starts[:-1], strict=True)] + [starts[-1:]]
    )
    time_ns = np.concatenate([file.tape.time_ns for file in files])
    order = np.argsort(time_ns, kind="stable")  # timsort: linear in sorted runs
    merged, merged_offsets = np.empty_like(data), np.empty_like(offsets)
    kernels.gather(data, offsets, order, merged, merged_offsets)
    counts: Counter[str] = Counter()
    for file in files:
        counts.update(file.tape.counts)
    return replace(
        files[0].tape,
        data=merged,
        offsets=merged_offsets,
        time_ns=time_ns[order],
        symbols=symbols,
        source=" + ".join(file.tape.source for file in files),
        counts=dict(counts),
        findings=dict(findings),
        terms=terms,
    )


def _agree(file: _File, symbols: dict[str, int], terms: dict[str, Terms]) -> None:
    """Check that a symbol of an earlier file counts in the same units. Raises DataFileError."""
    for symbol in file.tape.symbols:
        own, other = file.tape.terms.get(symbol, Terms()), terms.get(symbol, Terms())
        if symbol in symbols and own[:1] + own[2:] != other[:1] + other[2:]:
            msg = (
                f"{file.path}: {symbol} has {_units(own)} in it and {_units(other)} in a file before;"
                " files that play together must agree in that"
            )
            raise DataFileError(msg)


def _units(terms: Terms) -> str:
    return f"ticks of {terms.tick_size} {terms.currency} and lots of {terms.lot_size} (multiplier {terms.multiplier})"


def _assign(file: _File, taken: dict[int, int], locate_of: dict[int, int]) -> Ints:
    """Stock locates of a file in the merged tape, int64[65536] by old locate; notes them in both tables."""
    locates = np.arange(_N_LOCATES)
    seen = [int(locate) for locate in np.nonzero(file.flags)[0] if locate]
    own = set(seen)
    free = (locate for locate in range(1, _N_LOCATES) if locate not in taken and locate not in own)
    for old in seen:
        symbol = int(file.symbols[old])
        new = locate_of.get(symbol) if symbol else None
        if new is None:
            new = old if old not in taken else next(free, None)
        if new is None:
            msg = f"{file.path}: the files have more than {_N_LOCATES - 1} symbols together; play fewer files"
            raise DataFileError(msg)
        taken.setdefault(new, symbol)
        if symbol:
            locate_of[symbol] = new
        locates[old] = new
    return locates


def _separate_references(file: _File, refs: Ints, findings: Counter[str]) -> Ints:
    """Shift the order references of a file when it adds one that is in `refs`; returns `refs` with its own."""
    tape = file.tape
    buffer = np.empty(len(tape), np.int64)
    own = np.unique(buffer[: kernels.added_references(tape.data, tape.offsets, buffer)])
    if len(np.intersect1d(own, refs, assume_unique=True)):
        shift = int(refs[-1]) + 1
        if own[0] < 0 or refs[0] < 0 or int(own[-1]) + shift >= 1 << 63:
            msg = f"{file.path}: its order references collide with another file's and are too large to be changed"
            raise DataFileError(msg)
        findings["references_rewritten"] += kernels.shift_references(tape.data, tape.offsets, shift)
        own = own + shift
    return np.union1d(refs, own)
