"""``tickpath record``: the streams of a running system into compressed segments. Nobody waits for this process."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tickpath.cli.control import ControlError, InputError, System
from tickpath.cli.figures import counted
from tickpath.cli.launcher import Interrupted, StopRequest
from tickpath.cli.tap import STREAMS, Place, Source
from tickpath.common.recording import BLOCK_BYTES, RecordingError, StreamWriter

ALL_STREAMS: Final = (*STREAMS, "datagrams", "frames")

_POLL_S: Final = 0.02
_FLUSH_S: Final = 0.5  # a killed recorder loses no more than this
_SAY_S: Final = 5.0
_BATCH: Final = 4096  # records of one read
_NICE: Final = 10

Records = npt.NDArray[Any]


class _Stream:
    """One stream on its way from its source into its segments."""

    def __init__(self, source: Source, writer: StreamWriter) -> None:
        self.source, self.writer = source, writer
        self._lives = source.lives
        self._kept: list[Records] = []  # records that follow each other and are not written yet
        self._kept_bytes = 0
        self._next_seq = source.next_seq  # of the first that comes behind those
        self._kept_since = 0.0
        self.first_seq = 0  # of what was recorded; 0: nothing was

    def move(self, now_s: float) -> bool:
        """Take what is there, write what is enough for a block; whether anything was there."""
        records, missed = self.source.read(_BATCH)
        if self.source.lives != self._lives:
            self.flush()
            self._lives = self.source.lives
            self.writer.begin_epoch(self.source.epoch)
        if missed:
            self.flush()
            self.writer.write(records, self.source.next_seq - len(records), missed)
        elif len(records):
            if not self._kept:
                self._kept_since = now_s
            self._kept.append(records)
            self._kept_bytes += records.nbytes
        if not self.first_seq and len(records):
            self.first_seq = self.source.next_seq - len(records)
        self._next_seq = self.source.next_seq
        if self._kept_bytes >= BLOCK_BYTES or (self._kept and now_s - self._kept_since >= _FLUSH_S):
            self.flush()
        return bool(len(records) or missed)

    def flush(self) -> None:
        """Write what is kept."""
        if self._kept:
            records = np.concatenate(self._kept)
            self._kept, self._kept_bytes = [], 0
            self.writer.write(records, self._next_seq - len(records))

    def close(self) -> None:
        """Finish the last segment."""
        self.flush()
        self.writer.close()


def run_record(
    system: System,
    out: Path | None,
    streams: Sequence[str],
    *,
    seconds: float | None,
    segment_bytes: int,
    as_json: bool,
    say: Callable[[str], None],
) -> int:
    """Record until `seconds` are over, the user stops it, or the system has ended; returns the exit status.

    Raises ControlError, InputError, and KeyboardInterrupt as long as nothing is recorded.
    """
    unknown = [stream for stream in streams if stream not in ALL_STREAMS]
    if unknown:
        msg = f"--streams {','.join(unknown)}: allowed are {', '.join(ALL_STREAMS)}"
        raise InputError(msg)
    place = Place(system)
    sources = find_sources(place, streams, say)
    folder = _new_folder(out)
    stop = StopRequest()  # until here Ctrl-C is an exception: nothing is recorded yet
    recorded = [
        _Stream(
            source,
            StreamWriter(
                folder, source.stream, source.dtype, place.table, epoch=source.epoch, segment_bytes=segment_bytes
            ),
        )
        for source in sources
    ]
    say(f"recording {', '.join(source.stream for source in sources)} to {folder}; Ctrl-C ends it")
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    began = time.monotonic()
    try:
        _run(recorded, place, stop, None if seconds is None else began + seconds, say)
        for stream in recorded:
            stream.close()
    except RecordingError as error:
        raise ControlError(str(error)) from None
    report = _report(recorded, folder, time.monotonic() - began)
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        _show(report, say)
    return 0


def find_sources(place: Place, streams: Sequence[str], say: Callable[[str], None]) -> list[Source]:
    """Of the streams that were asked for, else of all that can be seen, from the oldest records on."""
    if streams:
        return [Source(place, stream, from_oldest=True) for stream in dict.fromkeys(streams)]
    found: list[Source] = []
    without: dict[str, list[str]] = {}
    for stream in ALL_STREAMS:
        try:
            found.append(Source(place, stream, from_oldest=True))
        except ControlError:
            if stream != "frames":  # most systems have none
                without.setdefault("ENABLED" if stream in STREAMS else "CAPTURE", []).append(stream)
    for key, hidden in without.items():
        say(f"not recorded: {', '.join(hidden)}; a system shows them that is started with TICKPATH_TAPS__{key}=true")
    return found


def _new_folder(out: Path | None) -> Path:
    folder = out or Path(f"recording-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            msg = f"--out {folder}: there is something in it; a recording needs a folder that is new or empty"
            raise InputError(msg)
    except OSError as error:
        msg = f"--out {folder}: {error.strerror}"
        raise InputError(msg) from None
    return folder


def _run(
    recorded: list[_Stream], place: Place, stop: StopRequest, until_s: float | None, say: Callable[[str], None]
) -> None:
    said = time.monotonic()
    before = 0
    with contextlib.suppress(Interrupted):
        while True:
            now_s = time.monotonic()
            last = (until_s is not None and now_s >= until_s) or place.is_gone() or stop.asked > 0
            moved = [stream.move(now_s) for stream in recorded]  # each in turn: none waits for another one's backlog
            if now_s - said >= _SAY_S:
                records = sum(stream.writer.records for stream in recorded)
                missed = sum(stream.writer.missed for stream in recorded)
                size = sum(stream.writer.bytes_written for stream in recorded)
                say(f"{(records - before) / (now_s - said):,.0f} records/s, {size / 1e6:,.1f} MB, {missed:,} missed")
                said, before = now_s, records
            if last:
                for stream in recorded:
                    end = stream.source.published
                    while stream.source.next_seq <= end and stream.move(now_s):
                        pass
                return
            if not any(moved):
                time.sleep(_POLL_S)


def _report(recorded: list[_Stream], folder: Path, seconds: float) -> dict[str, Any]:
    return {
        "out": str(folder),
        "seconds": round(seconds, 3),
        "streams": {
            stream.source.stream: {
                "records": stream.writer.records,
                "first_seq": stream.first_seq,
                "missed": stream.writer.missed,
                "segments": stream.writer.segments,
                "bytes": stream.writer.bytes_written,
            }
            for stream in recorded
        },
    }


def _show(report: dict[str, Any], say: Callable[[str], None]) -> None:
    for stream, found in report["streams"].items():
        records = f"{found['records']:,} records"
        if found["first_seq"] > 1:
            records += f" from number {found['first_seq']:,} on, the oldest that was still kept,"
        say(
            f"{stream}: {records} in {counted(found['segments'], 'segment')}, {found['bytes'] / 1e6:,.1f} MB;"
            f" {found['missed']:,} missed"
        )
