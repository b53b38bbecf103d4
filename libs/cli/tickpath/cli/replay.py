"""``tickpath replay``: recorded data through the whole chain at full speed, in one process, no sockets, no clock.

The work is done by `tickpath.cli.fused.replay` in a process of its own: it needs Numba, and this one starts fast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from tickpath.cli.launcher import EXIT_FAULT, EXIT_INPUT, Interrupted, LaunchError, StopRequest
from tickpath.cli.report import print_report
from tickpath.cli.warm_up import WarmUpError, ensure_warm
from tickpath.common.config import CONFIG_ENV, config_path, load_config
from tickpath.common.process import die_with_parent
from tickpath.sim.sources.files import check_files
from tickpath.sim.sources.tape import DataFileError

_POLL_S: Final = 0.05


def run_replay(
    config: Path | None,
    files: Sequence[Path],
    say: Callable[[str], None],
    *,
    as_json: bool,
    keep: Path | None = None,
) -> int:
    """Replay, report; 0 when the report is ok. `keep`: a folder for journal and instrument table.

    Raises LaunchError, ConfigError.
    """
    file = config_path(config).absolute()
    environment = {**os.environ, CONFIG_ENV: str(file), "TICKPATH_LINKS__LANE": "fused"}
    loaded = load_config(file, links={"lane": "fused"})
    stop = StopRequest()
    try:
        check_files(files)
        if keep is not None:
            _make_folder(keep)
        ensure_warm(loaded, environment, say, lambda: stop.asked > 0)
        with tempfile.TemporaryDirectory(prefix="tickpath-replay-") as scratch:
            answer = _answer([str(keep or scratch), *map(str, files)], environment, stop)
    except Interrupted:
        say("stopped")
        return stop.exit_status
    except DataFileError as error:
        raise LaunchError(str(error), EXIT_INPUT) from None
    except WarmUpError as error:
        raise LaunchError(str(error)) from None
    if "fault" in answer:
        raise LaunchError(answer["fault"], EXIT_INPUT)
    report, problems = answer["report"], answer["problems"]
    if as_json:
        for problem in problems:
            say(f"not ok: {problem}")
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        _show(report, problems, answer["positions"])
    if keep is not None:
        say(f"journal and instruments are in {keep}")
    return 0 if report["ok"] else EXIT_FAULT


def _make_folder(keep: Path) -> None:
    """Raises LaunchError: a journal that is there already would be gone on with."""
    try:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            msg = f"--keep {keep}: there is something in it; a journal needs a folder that is new or empty"
            raise LaunchError(msg, EXIT_INPUT)
    except OSError as error:
        msg = f"--keep {keep}: {error.strerror}"
        raise LaunchError(msg, EXIT_INPUT) from None


def _answer(arguments: Sequence[str], environment: Mapping[str, str], stop: StopRequest) -> dict[str, Any]:
    """What the process that replays says. Raises Interrupted, and LaunchError when it says nothing."""
    stop.check()
    child = subprocess.Popen(
        [sys.executable, "-m", "tickpath.cli.fused.replay", *arguments], env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True,
        preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - one prctl, no lock is taken
    )  # fmt: skip
    with child:
        try:
            while True:
                try:
                    output, _ = child.communicate(timeout=_POLL_S)
                except subprocess.TimeoutExpired:
                    stop.check()
                else:
                    break
        finally:
            child.kill()
    try:
        answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        msg = f"the replay ended with status {child.returncode}; see above"
        raise LaunchError(msg, EXIT_FAULT) from None
    return answer


def _show(report: dict[str, Any], problems: list[str], positions: Mapping[str, int]) -> None:
    from rich import box  # noqa: PLC0415 - only for people
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    print_report(report, problems, positions, console)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("symbol", "fills", "lots traded", "position", "mark", "profit"):
        table.add_column(column, justify="right" if column != "symbol" else "left")
    profit = report["pnl"]
    for symbol, found in sorted(profit["by_symbol"].items(), key=lambda item: -abs(item[1]["profit"]))[:20]:
        table.add_row(
            symbol, f"{found['fills']:,}", f"{found['volume_lots']:,}", f"{found['position_lots']:,}",
            f"{found['mark']:,.4f}", f"{found['profit']:,.2f}",
        )  # fmt: skip
    if table.row_count:
        console.print("Profit and loss, before fees; positions at the last mid price", style="bold", highlight=False)
        console.print(table)
    console.print(f"in all {profit['profit']:,.2f}; {report['messages_per_s']:,} messages/s", highlight=False)
    for stream, digest in report["digests"].items():
        console.print(f"digest of the {stream}: {digest}", highlight=False)
