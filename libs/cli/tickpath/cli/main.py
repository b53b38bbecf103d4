"""The command ``tickpath``. Everything is imported where it is used: ``--help`` and ``status`` must be quick."""

# ruff: noqa: PLC0415

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from tickpath.cli.control import System

app = typer.Typer(
    name="tickpath",
    help="Market data in, orders out: run, watch and control the pipeline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
limits_app = typer.Typer(help="Limits of risk: list them, change them while trading.", no_args_is_help=True)
kill_app = typer.Typer(help="Kill switches: trip, re-arm, list.", no_args_is_help=True)
app.add_typer(limits_app, name="limits")
app.add_typer(kill_app, name="kill")

_INPUT = 2
_FAULT = 1

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file (default: TICKPATH_CONFIG, ./tickpath.toml).")
]
RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", help="The system on this folder, not the last started one.")
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token", envvar="TICKPATH_ADMIN__TOKEN", help="Bearer token.", show_envvar=True, show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
PortBaseOption = Annotated[
    int | None,
    typer.Option("--port-base", help="Take the ports from N+1 on, so that two systems can run; 0: any free ports."),
]

LaneOption = Annotated[
    str,
    typer.Option(
        "--lane",
        help="How records move: zmq-ipc, zmq-tcp, shm or fused.",
        show_default="configured",
    ),
]
FeedOption = Annotated[
    str,
    typer.Option(
        "--feed",
        help="Trade a live market on paper: binance, binance-usdm, binance-coinm, kraken, coinbase or bybit.",
        show_default=False,
    ),
]
SymbolsOption = Annotated[
    str, typer.Option("--symbols", help="Of --feed, with commas: btcusdt,ethusdt.", show_default=False)
]
FeedUrlOption = Annotated[
    str,
    typer.Option("--feed-url", help="Another server than the venue's: ws://127.0.0.1:9400.", show_default=False),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the record.")]


def say(text: str) -> None:
    """For people, on stderr: stdout belongs to results. Lines after the first are indented under it."""
    head = "tickpath: "
    sys.stderr.write(head + text.replace("\n", "\n" + " " * len(head)) + "\n")
    sys.stderr.flush()


def fail(text: object, status: int = _INPUT) -> NoReturn:
    """Say what is wrong and exit."""
    say(str(text))
    raise typer.Exit(status)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"tickpath {version('tickpath-cli')}\n")
        raise typer.Exit


@app.callback()
def _before_a_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    del version  # its callback has said it


def _speed(text: str) -> float | str:
    if text in ("max", "step"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        msg = f"{text!r} is not a speed; allowed are numbers above 0 (1: as recorded), max and step"
        raise typer.BadParameter(msg)
    return value


def _lane(text: str) -> str:
    from typing import get_args

    from tickpath.common.config import Lane

    allowed = get_args(Lane)
    if text and text not in allowed:
        fail(f"--lane {text!r}: allowed are {', '.join(allowed)}")
    return text


def _live(feed: str, symbols: str, url: str) -> dict[str, Any]:
    """Settings of section ``sim`` for a live market, empty when none is wanted."""
    from typing import get_args

    from tickpath.common.config import LiveVenue

    wanted = [symbol.strip() for symbol in symbols.split(",") if symbol.strip()]
    if not feed:
        if wanted or url:
            fail("--symbols and --feed-url belong to --feed, which names the venue")
        return {}
    if feed not in get_args(LiveVenue):
        fail(f"--feed {feed!r}: allowed are {', '.join(get_args(LiveVenue))}")
    if not wanted:
        fail(f"--feed {feed} needs --symbols: those to trade, as the venue writes them, with commas between them")
    if url and not url.startswith(("ws://", "wss://")):
        fail(f"--feed-url {url!r}: must begin with ws:// or wss://")
    return {"live": feed, "live_symbols": wanted, **({"live_url": url} if url else {})}


@app.command()
def demo(
    seconds: Annotated[
        float, typer.Option("--seconds", min=0.1, max=86_400, help="How long the exchange plays.")
    ] = 20,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data", help="Recorded file (docs/data.md says of what kinds); may be given again. None: generated."
        ),
    ] = None,
    speed: Annotated[str, typer.Option("--speed", help="Times the recorded pace; max; step: in lockstep.")] = "1",
    rate: Annotated[
        float, typer.Option("--rate", min=0, help="Messages per second in place of the recorded pace.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the generated market.")] = 1,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    port_base: PortBaseOption = None,
    lane: LaneOption = "",
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Copy logs, pages and journal there at the end.")
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write a page there: percentiles, waterfalls, and the pauses that orders met."),
    ] = None,
    loss: Annotated[
        float,
        typer.Option("--loss", min=0, max=0.5, help="Play on two lines, each of which loses this share of packets."),
    ] = 0,
    feed: FeedOption = "",
    symbols: SymbolsOption = "",
    feed_url: FeedUrlOption = "",
) -> None:
    """Run the whole pipeline on this machine for a while and report: exchange, feed, signals, risk, exec, Redis."""
    from tickpath.cli.demo import DemoOptions, run_demo

    try:
        pace = _speed(speed)
    except typer.BadParameter as error:
        fail(f"--speed: {error}")
    if rate and speed != "1":
        fail("--rate and --speed exclude each other: --rate sets a pace of its own")
    if html is not None and (html.is_dir() or not os.access(html.absolute().parent, os.W_OK)):
        fail(f"--html {html}: cannot be written; allowed is a file in a folder that exists")
    live = _live(feed, symbols, feed_url)
    if live and (data or rate or speed != "1"):
        fail("--feed is a live market: --data, --speed and --rate are for recorded ones")
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fail(f"--keep {keep}: cannot be made: {error.strerror}; allowed is a folder, which may be new")
        if not os.access(keep, os.W_OK):
            fail(f"--keep {keep}: cannot be written to")
    options = DemoOptions(
        seconds, tuple(data or ()), pace, rate, seed, as_json, config, port_base, keep, _lane(lane), html, live, loss
    )
    _guarded(lambda: run_demo(options))


@app.command()
def replay(
    files: Annotated[
        list[Path], typer.Argument(help="Recorded files (docs/data.md says of what kinds); several play together.")
    ],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="Leave journal and instrument table there: a new or empty folder.")
    ] = None,
) -> None:
    """Run recorded data through the whole chain at full speed: report, P&L, digests of the decisions."""
    from tickpath.cli.replay import run_replay

    _guarded(lambda: run_replay(config, files, say, as_json=as_json, keep=keep))


@app.command()
def instruments(
    files: Annotated[list[Path], typer.Argument(help="Recorded files (docs/data.md says of what kinds).")],
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("instruments.csv"),
) -> None:
    """Write the instrument table of recorded data, for a deployment that plays them."""
    from tickpath.cli.data import run_instruments

    _guarded(lambda: run_instruments(files, out, say))


@app.command()
def up(
    with_sim: Annotated[
        bool,
        typer.Option(
            "--with-sim/--no-sim", help="With the simulated exchange, or against the venue of the configuration."
        ),
    ] = True,
    config: ConfigOption = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="Folder for sockets, pages and journal.")] = None,
    port_base: PortBaseOption = None,
    lane: LaneOption = "",
    feed: FeedOption = "",
    symbols: SymbolsOption = "",
    feed_url: FeedUrlOption = "",
) -> None:
    """Run the services in the foreground until Ctrl-C."""
    from tickpath.cli.up import run_up

    live = _live(feed, symbols, feed_url)
    if live and not with_sim:
        fail("--feed needs the simulated exchange: it plays the live market and takes the orders; leave --no-sim out")
    _guarded(lambda: run_up(config, run_dir, port_base, with_sim=with_sim, lane=_lane(lane), live=live, say=say))


@app.command()
def down(run_dir: RunDirOption = None) -> None:
    """Stop an `up` (or `demo`) that runs on this machine: it drains first."""
    from tickpath.cli.up import run_down

    _guarded(lambda: run_down(run_dir, say))


@app.command()
def status(
    as_json: JsonOption = False, config: ConfigOption = None, run_dir: RunDirOption = None, token: TokenOption = None
) -> None:
    """Ask every service of a running system how it is; exit status 1 when one is not reachable."""
    from tickpath.cli.show import show_status

    _guarded(lambda: show_status(_find(config, run_dir, token), as_json=as_json))


@app.command()
def top(config: ConfigOption = None, run_dir: RunDirOption = None) -> None:
    """Watch a running system live, from its pages; disturbs nobody."""
    from tickpath.cli.show import show_top

    _guarded(lambda: show_top(_find(config, run_dir, None)))


@app.command()
def tap(
    stream: Annotated[str, typer.Argument(help="ticks, signals, orders or reports.")],
    symbol: Annotated[str | None, typer.Option("--symbol", help="Of this instrument only.")] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    since_start: Annotated[
        bool, typer.Option("--since-start", help="Begin with the oldest that are kept, not with the next.")
    ] = False,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Watch a stream of a running system, decoded; the system does not notice."""
    from tickpath.cli.tap import show_tap

    _guarded(
        lambda: show_tap(
            _find(config, run_dir, None), stream, symbol=symbol, count=count, as_json=as_json,
            since_start=since_start, say=say,
        )
    )  # fmt: skip


@app.command()
def book(
    symbol: Annotated[str, typer.Argument(help="As in the instrument table.")],
    levels: Annotated[int, typer.Option("--levels", min=1, max=100, help="Prices on each side.")] = 10,
    once: Annotated[bool, typer.Option("--once", help="Print it once, not live.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Watch the order book of an instrument: prices, lots and orders on both sides."""
    from tickpath.cli.book import show_book

    _guarded(lambda: show_book(_find(config, run_dir, None), symbol, levels=levels, once=once, as_json=as_json))


@app.command()
def record(
    out: Annotated[
        Path | None, typer.Option("--out", help="New or empty folder (default: recording-DATE-TIME).")
    ] = None,
    streams: Annotated[
        str,
        typer.Option(
            "--streams",
            help="Of ticks,signals,orders,reports,datagrams,frames (default: all that can be seen).",
            show_default=False,
        ),
    ] = "",
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.1, help="Stop after so long (default: with the system).")
    ] = None,
    segment_mb: Annotated[int, typer.Option("--segment-mb", min=1, max=4096, help="Size of a file.")] = 64,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Record streams of a running system into compressed files; it may be slow or die, the system does not notice."""

    def run() -> int:
        try:
            from tickpath.cli.record import run_record

            chosen = [name for item in streams.split(",") if (name := item.strip())]
            return run_record(
                _find(config, run_dir, None), out, chosen, seconds=seconds, segment_bytes=segment_mb << 20,
                as_json=as_json, say=say,
            )  # fmt: skip
        except KeyboardInterrupt:
            say("stopped before the recording began: nothing was recorded")
            return 130

    _guarded(run)


@app.command()
def export(
    recording: Annotated[
        Path | None, typer.Argument(help="A recording (folder), or one segment of it.", show_default=False)
    ] = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="A journal of exec instead: its orders and reports.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for one file per stream.")] = Path("export"),
    file_format: Annotated[
        str, typer.Option("--format", help="parquet, csv; pcap (datagrams), tsjson (frames).")
    ] = "parquet",
    instruments: Annotated[
        Path | None, typer.Option("--instruments", help="Of a journal: its instrument table (default: configured).")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Write a recording as Parquet (for pandas, polars, DuckDB), CSV or, its datagrams, as a capture."""
    from tickpath.cli.export import run_export

    if (recording is None) == (journal is None):
        fail("name a recording or --journal DIR, one of them")
    _guarded(lambda: run_export(recording, journal, out, file_format, instruments, config, say))


@limits_app.command("list")
def limits_list(
    as_json: JsonOption = False, config: ConfigOption = None, run_dir: RunDirOption = None, token: TokenOption = None
) -> None:
    """All limits in force."""
    from tickpath.cli.show import show_limits

    _guarded(lambda: show_limits(_find(config, run_dir, token), as_json=as_json))


@limits_app.command("set")
def limits_set(
    scope: Annotated[
        str,
        typer.Argument(
            help="A symbol, default (all symbols without limits of their own), GLOBAL, STRATEGY:name or ACCOUNT:main."
        ),
    ],
    values: Annotated[list[str], typer.Argument(help="field=value ..., value a number or unlimited.")],
    reason: ReasonOption = "by hand",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
    token: TokenOption = None,
) -> None:
    """Change limits; the next order is checked against them."""
    from tickpath.cli.show import set_limits

    wanted = {}
    for item in values:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            fail(f"{item!r} is not field=value, for example max_order_qty_lots=500")
        wanted[name] = value
    _guarded(lambda: set_limits(_find(config, run_dir, token), scope, wanted, reason, as_json=as_json))


ScopeArgument = Annotated[
    str, typer.Argument(help="GLOBAL, STRATEGY:name, ACCOUNT:main, SYMBOL:name, or just a symbol.")
]


@kill_app.command("trip")
def kill_trip(
    scope: ScopeArgument = "GLOBAL",
    reason: ReasonOption = "by hand",
    reducing: Annotated[
        bool, typer.Option("--reducing", help="Still allow orders that reduce the position.")
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
    token: TokenOption = None,
) -> None:
    """Stop new orders in a scope at once, and cancel what is open in it."""
    from tickpath.cli.show import trip

    state = "REDUCING" if reducing else "HALTED"
    _guarded(lambda: trip(_find(config, run_dir, token), scope, reason, state, as_json=as_json))


@kill_app.command("rearm")
def kill_rearm(
    scope: ScopeArgument = "GLOBAL",
    reason: ReasonOption = "by hand",
    as_json: JsonOption = False,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
    token: TokenOption = None,
) -> None:
    """Allow orders in a scope again; a step of its own, never automatic."""
    from tickpath.cli.show import rearm

    _guarded(lambda: rearm(_find(config, run_dir, token), scope, reason, as_json=as_json))


@kill_app.command("list")
def kill_list(
    as_json: JsonOption = False, config: ConfigOption = None, run_dir: RunDirOption = None, token: TokenOption = None
) -> None:
    """Kill switches and trading states."""
    from tickpath.cli.show import show_switches

    _guarded(lambda: show_switches(_find(config, run_dir, token), as_json=as_json))


@app.command("warm-up")
def warm_up(
    config: ConfigOption = None,
    force: Annotated[bool, typer.Option("--force", help="Even when a stamp says that all is compiled.")] = False,
) -> None:
    """Compile all kernels into the cache now, so that nothing has to at the next start."""
    from tickpath.cli.up import run_warm_up

    _guarded(lambda: run_warm_up(config, say, force=force))


@app.command()
def profile(
    what: Annotated[
        str, typer.Argument(help="feed, signals, risk, exec or sim; SERVICE.side for its side process.")
    ] = "",
    stages: Annotated[
        bool, typer.Option("--stages", help="Time each kernel over a recorded file, WHAT (default: AAPL of LOBSTER).")
    ] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=3600, help="How long a service is sampled.")] = 10,
    native: Annotated[
        bool, typer.Option("--native", help="Frames of native code too; the process stands still for each sample.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Image (default: profile-SERVICE.svg or profile-stages.svg).")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Where the time goes: a flame graph of a running service, or (--stages) the cost of each kernel."""
    from tickpath.cli.profile import TARGETS, run_profile, run_stages

    if stages:
        _guarded(lambda: run_stages(what, out or Path("profile-stages.svg"), as_json=as_json))
    if not what:
        fail(f"name what to profile: {', '.join(TARGETS)}, or --stages")
    _guarded(
        lambda: run_profile(
            _find(config, run_dir, None), what, seconds=seconds, native=native, out=out, as_json=as_json, say=say
        )
    )


_PASS_ON = {"ignore_unknown_options": True, "allow_extra_args": True}


@app.command(context_settings={**_PASS_ON, "help_option_names": []})
def bench(
    context: typer.Context, name: Annotated[str, typer.Argument(help="File in bench/, without .py.")] = ""
) -> None:
    """Run a measurement, with the arguments that follow its name; without a name: list them."""
    from tickpath.cli import workspace

    def run() -> int:
        if name in ("", "--help"):
            for item, about in workspace.benches().items():
                sys.stdout.write(f"{item:16} {about}\n")
            return 0
        workspace.run_bench(name, context.args)
        return 0

    _guarded(run)


@app.command(context_settings=_PASS_ON)
def test(context: typer.Context) -> None:
    """Linters, types and all tests; arguments go to pytest."""
    from tickpath.cli import workspace

    _guarded(lambda: workspace.run_checks(context.args, say))


def _find(config: Path | None, run_dir: Path | None, token: str | None) -> System:
    from tickpath.cli.control import System

    return System.find(config, run_dir, token)


def _guarded(work: Any) -> None:
    """Do the work; a user's mistake is one clear message and an exit status, never a traceback."""
    from tickpath.cli.control import ControlError, InputError
    from tickpath.cli.launcher import LaunchError
    from tickpath.cli.runs import RunError
    from tickpath.cli.workspace import WorkspaceError
    from tickpath.common.config import ConfigError
    from tickpath.common.instruments import InstrumentError

    try:
        raise typer.Exit(work())
    except LaunchError as error:
        fail(error, error.status)
    except (ConfigError, InputError, InstrumentError, RunError, WorkspaceError) as error:
        fail(error)
    except ControlError as error:
        fail(error, _FAULT)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except PermissionError as error:
        fail(f"{error.filename}: {error.strerror}")
