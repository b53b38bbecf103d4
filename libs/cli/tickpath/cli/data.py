"""``python -m tickpath.cli.data TARGET FILE...``: the instrument table of recorded data, written to TARGET.

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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
