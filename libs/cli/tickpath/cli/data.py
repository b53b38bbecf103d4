"""``tickpath instruments`` and ``python -m tickpath.cli.data TARGET FILE...``: the instrument table of recorded data.

Without a file: of the live market of the configuration, which is asked how its symbols are traded.

A process of its own for the launcher, because reading the data needs Numba. One JSON line on stdout: what the data
is, or ``{"fault": ...}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tickpath.cli.figures import counted
from tickpath.common.process import die_with_parent


def run_instruments(files: Sequence[Path], out: Path, say: Callable[[str], None]) -> int:
    """Write the table of recorded data to `out`; returns the exit status."""
    found = _of_data(files, out)
    if "fault" in found:
        say(found["fault"])
        return 2
    minutes = found["seconds"] / 60
    say(f"{found['source']}: {found['messages']:,} messages in {minutes:,.1f} minutes")
    if found["findings"]:
        say("findings: " + ", ".join(f"{name} {count:,}" for name, count in found["findings"].items()))
    say(f"{out}: {counted(found['symbols'], 'instrument')}")
    return 0


def _of_data(files: Sequence[Path], target: Path) -> dict[str, Any]:
    """Read, check, write; what the data is, or ``{"fault": ...}``."""
    from tickpath.sim.sources.files import check_files  # noqa: PLC0415
    from tickpath.sim.sources.tape import DataFileError, write_instruments  # noqa: PLC0415

    try:
        check_files(files)
        from tickpath.sim.sources.load import load_tape  # noqa: PLC0415 - compiles kernels, if it must

        tape = load_tape(files)
        if not tape.symbols:
            msg = f"{tape.source}: there is no order or trade of any symbol in it, so there is nothing to trade on"
            raise DataFileError(msg)
        write_instruments(tape, target)
    except DataFileError as error:
        return {"fault": str(error)}
    return {
        "source": tape.source,
        "messages": len(tape),
        "symbols": len(tape.symbols),
        "seconds": tape.duration_ns / 1e9,
        "findings": tape.findings,
    }


def _main(arguments: list[str]) -> int:
    """For the launcher. Returns the exit status."""
    die_with_parent()
    target, *files = map(Path, arguments)
    found = _of_data(files, target) if files else _live(target)
    sys.stdout.write(json.dumps(found) + "\n")
    return 2 if "fault" in found else 0


def _live(target: Path) -> dict[str, Any]:
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
        return {"fault": str(error)}
    return {"source": f"live: {', '.join(terms)}", "symbols": len(terms)}


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
