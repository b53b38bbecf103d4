"""``tickpath replay``: recorded data through the whole chain at full speed, in one process, no sockets, no clock.

The work is done by `tickpath.cli.fused.replay` in a process of its own: it needs Numba, and this one starts fast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tickpath.cli.launcher import EXIT_FAULT, EXIT_INPUT, LaunchError
from tickpath.cli.report import print_report
from tickpath.cli.warm_up import WarmUpError, ensure_warm
from tickpath.common.config import CONFIG_ENV, config_path, load_config


def run_replay(config: Path | None, files: Sequence[Path], say: Callable[[str], None], *, as_json: bool) -> int:
    """Replay, report; 0 when the report is ok. Raises LaunchError, ConfigError."""
    file = config_path(config).absolute()
    environment = {**os.environ, CONFIG_ENV: str(file), "TICKPATH_LINKS__LANE": "fused"}
    try:
        ensure_warm(load_config(file, links={"lane": "fused"}), environment, say)
    except WarmUpError as error:
        raise LaunchError(str(error)) from None
    command = [sys.executable, "-m", "tickpath.cli.fused.replay", *map(str, files)]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        msg = f"the replay ended with status {done.returncode}; see above"
        raise LaunchError(msg, EXIT_FAULT) from None
    if "fault" in answer:
        raise LaunchError(answer["fault"], EXIT_INPUT)
    report, problems = answer["report"], answer["problems"]
    if as_json:
        for problem in problems:
            say(f"not ok: {problem}")
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        _show(report, problems)
    return 0 if report["ok"] else EXIT_FAULT


def _show(report: dict[str, Any], problems: list[str]) -> None:
    from rich import box  # noqa: PLC0415 - only for people
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    print_report(report, problems, {}, console)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("symbol", "fills", "lots traded", "position", "mark", "profit"):
        table.add_column(column, justify="right" if column != "symbol" else "left")
    profit = report["pnl"]
    for symbol, found in sorted(profit["by_symbol"].items(), key=lambda item: -abs(item[1]["profit"]))[:20]:
        table.add_row(
            symbol, f"{found['fills']:,}", f"{found['volume_lots']:,}", f"{found['position_lots']:,}",
            f"{found['mark']:,.4f}", f"{found['profit']:,.2f}",
        )  # fmt: skip
    console.print("Profit and loss, before fees; positions at the last mid price", style="bold", highlight=False)
    console.print(table)
    console.print(f"in all {profit['profit']:,.2f}; {report['messages_per_s']:,} messages/s", highlight=False)
    for stream, digest in report["digests"].items():
        console.print(f"digest of the {stream}: {digest}", highlight=False)
