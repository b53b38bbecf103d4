"""``python -m tickpath.cli.data TARGET FILE...``: the instrument table of recorded data, written to TARGET.

Without a file: of the live market of the configuration, which is asked how its symbols are traded.

A process of its own for the launcher, because reading the data needs Numba. One JSON line on stdout: what the data
is, or ``{"fault": ...}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Read, check, write. Returns the exit status."""
    from tickpath.sim.sources.load import load_tape  # noqa: PLC0415 - Numba, only in this process
    from tickpath.sim.sources.tape import DataFileError, write_instruments  # noqa: PLC0415

    target, *files = map(Path, arguments)
    if not files:
        return _live(target)
    try:
        tape = load_tape(files)
        if not tape.symbols:
            msg = f"{tape.source}: there is no order or trade of any symbol in it, so there is nothing to trade on"
            raise DataFileError(msg)
        write_instruments(tape, target)
    except DataFileError as error:
        sys.stdout.write(json.dumps({"fault": str(error)}) + "\n")
        return 2
    found = {
        "source": tape.source,
        "messages": len(tape),
        "symbols": len(tape.symbols),
        "seconds": tape.duration_ns / 1e9,
        "findings": tape.findings,
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def _live(target: Path) -> int:
    """The same for the live market of the configuration."""
    from tickpath.common.config import load_config  # noqa: PLC0415
    from tickpath.common.instruments import InstrumentError, make_table, save_instruments  # noqa: PLC0415
    from tickpath.sim.live import find_terms  # noqa: PLC0415
    from tickpath.sim.sources.tape import DataFileError  # noqa: PLC0415

    try:
        terms = find_terms(load_config())
        rows = [(symbol, *one, one.tick_size) for symbol, one in sorted(terms.items())]
        save_instruments(make_table(rows), target)
    except (DataFileError, InstrumentError) as error:
        sys.stdout.write(json.dumps({"fault": str(error)}) + "\n")
        return 2
    sys.stdout.write(json.dumps({"source": f"live: {', '.join(terms)}", "symbols": len(terms)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
