"""The local launcher: Redis, the simulated exchange and the four services as processes of this machine.

Three phases like every service: `start` (free ports, compiled kernels, everything started at once, wait until all are
ready), the caller's own work, `stop` (exec drains while the exchange still answers, then the others, then Redis).
Every process has a session of its own, so Ctrl-C reaches the launcher alone and it decides the order; a process group
that does not end in its time is killed, with a note. What the launcher has not started, it never touches.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tickpath.cli import runs
from tickpath.cli.redis_server import RedisServer, RedisServerError
from tickpath.cli.warm_up import WarmUpError, cache_root, ensure_warm
from tickpath.common.config import CONFIG_ENV, ENV_PREFIX, SERVICES, Config, config_path, load_config
from tickpath.common.pages import Hot, HotState, Page, PageError, hot_page_path
from tickpath.common.ports import free_ports
from tickpath.common.process import PARENT_ENV
from tickpath.sim.sources.files import check_files
from tickpath.sim.sources.tape import DataFileError

EXIT_FAULT: Final = 1
EXIT_INPUT: Final = 2
EXIT_START: Final = 3

#: Longest file name of a socket (`sockaddr_un`).
_IPC_BYTES: Final = 107
_IPC_NAME: Final = "/reports.want"

_READY_S: Final = 180.0  # a first start may compile a strategy
_STOP_S: Final = 5.0
_KILL_S: Final = 2.0
_POLL_S: Final = 0.02
_READY_POLL_S: Final = 0.05  # every look costs the processes that start some of their cores

#: Order of the ports from ``--port-base`` on.
_PORTS: Final = (
    ("feed", "http_port"), ("signals", "http_port"), ("risk", "http_port"), ("exec", "http_port"),
    ("sim", "http_port"), ("feed", "port"), ("exec", "port"),
    ("feed", "retransmission_port"), ("feed", "snapshot_port"),
)  # fmt: skip


class LaunchError(Exception):
    """The system cannot start; the message says what, where, and what is allowed."""

    def __init__(self, message: str, status: int = EXIT_START) -> None:
        super().__init__(message)
        self.status = status


class Interrupted(Exception):  # noqa: N818 - a request of the user, not an error
    """The user wants to stop."""


class StopRequest:
    """SIGINT, SIGTERM and SIGHUP counted: one asks to stop in order, two to stop now."""

    heeded = 0  # requests that the caller is following already: they interrupt nothing any more

    def __init__(self) -> None:
        self.asked = 0
        self.signal = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        self.asked += 1
        self.signal = number

    def check(self) -> None:
        """Raise Interrupted when the user wants to stop."""
        if self.asked > self.heeded:
            raise Interrupted

    def wait(self, seconds: float) -> None:
        """Sleep. Raises Interrupted at once when the user wants to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, 0.05))
        self.check()

    @property
    def exit_status(self) -> int:
        """As a shell would report it."""
        return 128 + self.signal


def place(cores: list[int]) -> dict[str, tuple[int, ...]]:
    """Cores of each hot process, of all side processes (``side``) and of ZeroMQ's I/O threads (``io``).

    Six cores or more: one for each of the five hot processes, nobody else on them; what is left is for side processes
    and I/O threads. Three to five: the first core keeps house, with the exchange on it, which is test equipment;
    feed has the most work of the others and shares with exec, which has the least. One or two: nothing is pinned.
    A tick wakes ten threads in turn (a hot loop and an I/O thread in each process), and with two cores any fixed
    choice makes some of them queue behind each other while the other core is idle; the scheduler sees who is idle.
    """
    hot = ("feed", "signals", "risk", "exec", "sim")
    if len(cores) >= len(hot) + 1:
        rest = tuple(cores[len(hot) :])
        return {**{name: (cores[i],) for i, name in enumerate(hot)}, "side": rest, "io": rest}
    if len(cores) <= 2:
        return {**dict.fromkeys(hot, ()), "side": (), "io": ()}
    house, others = cores[0], cores[1:]
    chosen = {"sim": (house,), "side": (house,), "io": ()}
    for index, name in enumerate(("feed", "risk", "signals", "exec")):
        row, column = divmod(index, len(others))
        chosen[name] = (others[column] if row % 2 == 0 else others[-1 - column],)
    return chosen


@dataclass(frozen=True, slots=True)
class Options:
    """What to start and how."""

    command: str  # demo or up: what `tickpath status` calls it
    config: Path | None = None
    sections: Mapping[str, Any] = field(default_factory=dict)  # wins over environment and file
    run_dir: Path | None = None  # None: a fresh one that is removed at the end
    port_base: int | None = None  # None: the ports of the configuration; 0: any that are free
    with_sim: bool = True
    data: tuple[Path, ...] = ()  # recorded files: they decide the instruments
    keep: Path | None = None  # where logs, pages and journal are copied to at the end
    own_redis: bool = True  # False: only when none answers at redis.url


@dataclass(slots=True)
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Launcher:
    """A system of processes; `with Launcher(...) as system` stops it whatever happens."""

    def __init__(self, options: Options, say: Callable[[str], None], stop: StopRequest) -> None:
        self.options = options
        self.say = say
        self.stopping = stop
        self.config: Config
        self.run_dir: Path
        self.token = ""
        self.tape: dict[str, Any] = {}  # what is known of the recorded data
        self._children: dict[str, _Child] = {}
        self._redis: RedisServer | None = None
        self._claim = -1
        self._environment: dict[str, str] = {}
        self._own_run_dir = options.run_dir is None
        self.killed: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def names(self) -> tuple[str, ...]:
        """Processes that are launched, in the order of their stop."""
        return ("exec", "sim", "risk", "signals", "feed") if self.options.with_sim else tuple(reversed(SERVICES))

    def pid(self, name: str) -> int:
        """Process id of the side process of a service or of the exchange."""
        return self._children[name].process.pid

    # Start.

    def start(self) -> None:
        """Start everything and wait until all are ready. Raises LaunchError, ConfigError, RunError, Interrupted."""
        try:
            check_files(self.options.data)
        except DataFileError as error:
            raise LaunchError(str(error), EXIT_INPUT) from None
        self._prepare()
        try:
            ensure_warm(self.config, self._environment, self.say, lambda: self.stopping.asked > 0)
        except WarmUpError as error:
            raise LaunchError(str(error)) from None
        self.stopping.check()
        began = time.monotonic()
        self._start_redis()
        if self.options.data:
            self._write_instruments()
        elif self._is_live(self.config):
            self._read_data(self.run_dir / "instruments.csv")
        for name in ("sim", "signals", "risk", "feed", "exec"):  # those first that take longest to be ready
            if name in self.names:
                self._start_child(name)
        self._note()
        self._wait_ready(began)

    def _prepare(self) -> None:
        options = self.options
        if options.run_dir is None:
            self.run_dir, self._claim = runs.make_run_dir()
        else:
            self.run_dir = options.run_dir.absolute()
            self._claim = runs.claim_run_dir(self.run_dir)
            for ring in self.run_dir.glob("*.ring"):
                ring.unlink()  # of a launcher that was killed: what is left in it belongs to another run
        too_long = len(os.fsencode(self.run_dir.resolve())) + len(_IPC_NAME) - _IPC_BYTES
        if too_long > 0:
            msg = f"run_dir {self.run_dir} is {too_long} bytes too long for sockets in it; choose a shorter one"
            raise LaunchError(msg, EXIT_INPUT)
        file = config_path(options.config)
        load_config(file)  # as it stands: what the command overrides must not hide a mistake
        first = load_config(file, **options.sections)  # the sections of the command, before ours are added
        self.token = first.admin.bearer() or secrets.token_urlsafe(24)
        sections = _merge(options.sections, {"run_dir": str(self.run_dir)}, self._ports(first), self._cores(first))
        if options.data or self._is_live(first):
            sections = _merge(sections, {"instruments": str(self.run_dir / "instruments.csv")})
        if options.own_redis or not _answers(first.redis.url):
            self._redis = RedisServer(self.run_dir, port=None, unix_socket=self.run_dir / "redis.sock")
            sections = _merge(sections, {"redis": {"url": self._redis.url}})
        self.config = load_config(file, **sections)
        self._check_ports()
        self._environment = {
            # Their threads would only be in the way: every process has one that works.
            **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
            **os.environ,
            **_to_environment(sections),
            CONFIG_ENV: str(file.absolute()),
            f"{ENV_PREFIX}ADMIN__TOKEN": self.token,
            PARENT_ENV: str(os.getpid()),
        }

    def _is_live(self, config: Config) -> bool:
        """Whether the exchange plays a live market: then that decides the instruments."""
        return self.options.with_sim and config.sim.live is not None

    def _ports(self, config: Config) -> dict[str, Any]:
        base = self.options.port_base
        if base is None:
            return {}
        if base and not 1024 <= base <= 65534 - len(_PORTS):
            msg = f"--port-base {base}: allowed are 1024 to {65534 - len(_PORTS)}, and 0 for any free ports"
            raise LaunchError(msg, EXIT_INPUT)
        host = config.admin.host
        _check_host("admin.host", host)
        wanted = [*_PORTS, *([("feed", "line_b_port")] if config.feed.line_b_port is not None else [])]
        ports = [base + 1 + i for i in range(len(wanted))] if base else free_ports(len(wanted), host)
        chosen: dict[str, Any] = {}
        for (section, key), port in zip(wanted, ports, strict=True):
            chosen.setdefault(section, {})[key] = port
        return chosen

    def _cores(self, config: Config) -> dict[str, Any]:
        """Placement, unless the configuration has one."""
        available = sorted(os.sched_getaffinity(0))
        wanted = {f"cores.{name}": getattr(config.cores, name) for name in type(config.cores).model_fields}
        for key, cores in {**wanted, "links.io_cores": config.links.io_cores}.items():
            if not set(cores) <= set(available):
                msg = f"{key} = {list(cores)}: allowed are the cores that there are, {', '.join(map(str, available))}"
                raise LaunchError(msg, EXIT_INPUT)
        given = any(getattr(config.cores, name) for name in type(config.cores).model_fields)
        chosen = (
            {name: getattr(config.cores, name) for name in type(config.cores).model_fields}
            if given
            else place(available)
        )
        io = config.links.io_cores if given else chosen.pop("io")
        shown = [f"{name} {','.join(map(str, chosen[name])) or 'any'}" for name in chosen]
        self.say(f"{len(available)} cores ({','.join(map(str, available))}): " + "  ".join(shown))
        return {"cores": {k: list(v) for k, v in chosen.items()}, "links": {"io_cores": list(io)}}

    def _check_ports(self) -> None:
        """Say which port is in use before ten processes find out."""
        config = self.config
        wanted = [(name, "http_port", config.admin.host, socket.SOCK_STREAM) for name in self.names]
        wanted.append(("feed", "port", config.feed.host, socket.SOCK_DGRAM))
        wanted.append(("feed", "line_b_port", config.feed.line_b_host, socket.SOCK_DGRAM))
        if self.options.with_sim:
            wanted.append(("exec", "port", config.exec.host, socket.SOCK_STREAM))
            wanted.append(("feed", "retransmission_port", config.feed.retransmission_host, socket.SOCK_DGRAM))
            wanted.append(("feed", "snapshot_port", config.feed.snapshot_host, socket.SOCK_STREAM))
        for section, key, host, kind in wanted:
            port = getattr(getattr(config, section), key)
            if port is None:
                continue
            _check_host("admin.host" if key == "http_port" else f"{section}.{key.replace('port', 'host')}", host)
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host, port))
                except OSError as error:
                    name = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
                    variable = f"{ENV_PREFIX}{section}__{key}".upper()
                    msg = (
                        f"{section}.{key}: {name} port {port} on {host} cannot be used: {error.strerror};"
                        f" --port-base N takes the ports from N on (0: any free ones), {variable} sets this one"
                    )
                    raise LaunchError(msg) from None

    def _start_redis(self) -> None:
        if self._redis is None:
            self.say(f"Redis at {self.config.redis.url} answers and is used")
            return
        try:
            self._redis.start()
        except RedisServerError as error:
            raise LaunchError(str(error)) from None

    def _start_child(self, name: str) -> None:
        self.stopping.check()
        log = self.run_dir / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", f"tickpath.{name}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )
        self._children[name] = _Child(name, process, log)

    def _write_instruments(self) -> None:
        """The instruments of recorded data; what was found in the same files before is kept beside the kernels."""
        target = self.run_dir / "instruments.csv"
        known = cache_root() / f"data_{_identity(self.options.data)}.json"
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = json.loads(known.read_text("utf-8"))
            target.write_text(found["instruments"], "utf-8")
            self.tape = found["tape"]
            return
        self._read_data(target)
        with contextlib.suppress(OSError):
            text = json.dumps({"tape": self.tape, "instruments": target.read_text("utf-8")})
            temporary = known.with_suffix(f".{os.getpid()}")
            temporary.write_text(text, "utf-8")
            temporary.replace(known)

    def _read_data(self, target: Path) -> None:
        """By the code that plays it, in a process of its own, because that needs Numba."""
        command = [sys.executable, "-m", "tickpath.cli.data", str(target), *map(str, self.options.data)]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self._environment, start_new_session=True
        )
        try:
            while child.poll() is None:
                self.stopping.wait(_POLL_S)
        finally:
            if child.poll() is None:
                child.kill()
            output = child.communicate()[0]
        try:
            answer = json.loads(output.splitlines()[-1])
        except (ValueError, IndexError):
            answer = {"fault": f"reading the data ended with status {child.returncode}"}
        if "fault" in answer:
            raise LaunchError(answer["fault"], EXIT_INPUT)
        self.tape = answer

    def _note(self) -> None:
        run = runs.Run(
            pid=os.getpid(),
            command=self.options.command,
            run_dir=str(self.run_dir),
            config=self._environment[CONFIG_ENV],
            host=self.config.admin.host,
            http_ports={name: self.config.http_port(name) for name in self.names},
            token_file=str(self.run_dir / "token"),
            with_sim=self.options.with_sim,
        )
        runs.write_note(run, self.token)

    def _wait_ready(self, began: float) -> None:
        from tickpath.cli.control import Endpoint  # noqa: PLC0415 - only here

        waiting = list(reversed(self.names))
        told: dict[str, str] = {}
        while waiting:
            for name in list(waiting):
                self._check_running(name)
                state = _hot_state(self.run_dir, name)
                why = state
                if state == HotState.READY.name:
                    endpoint = Endpoint(self.config.admin.host, self.config.http_port(name))
                    ready, why = endpoint.ready()
                    if ready:
                        waiting.remove(name)
                        self.say(f"{name} is ready after {time.monotonic() - began:.1f} s")
                        continue
                told[name] = why
            if time.monotonic() - began > _READY_S:
                faults = "; ".join(f"{name}: {told[name]}" for name in waiting)
                msg = f"not ready after {_READY_S:.0f} s: {faults}"
                raise LaunchError(msg)
            self.stopping.wait(_READY_POLL_S)

    def check(self) -> None:
        """Raise LaunchError when a process has ended by itself."""
        for name in self.names:
            self._check_running(name)

    def _check_running(self, name: str) -> None:
        child = self._children[name]
        if child.process.poll() is not None:
            said = _last_lines(child.log)
            msg = f"{name} ended with status {child.process.returncode}" + (f":\n{said}" if said else "")
            raise LaunchError(msg)

    # Stop.

    def end(self, *names: str, within_s: float = _STOP_S) -> None:
        """Ask processes to end, wait until they have, and kill with a note what has not in its time."""
        children = [self._children[name] for name in names if name in self._children]
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        until = time.monotonic() + within_s
        asked = self.stopping.asked
        while any(child.process.poll() is None for child in children):
            if time.monotonic() > until or self.stopping.asked > max(1, asked):
                break
            time.sleep(_POLL_S)
        for child in children:
            if child.process.poll() is None:
                self.killed.append(child.name)
                self.say(f"{child.name} did not end within {within_s:.0f} s and was killed")
            _kill_group(child.process)

    def stop(self) -> None:
        """End everything that was started and remove the folder. Safe to call at any time, more than once."""
        self.end("exec", within_s=self.drain_s)
        self.end("sim", "risk", "signals", "feed")
        if self._redis is not None:
            self._redis.stop()
            self._redis = None
        if self._claim >= 0:
            self._clear()
            os.close(self._claim)
            self._claim = -1

    @property
    def drain_s(self) -> float:
        """Longest time that exec may take to end."""
        return self.config.exec.drain_timeout_ms / 1000 + _STOP_S if self._children else 0.0

    def _clear(self) -> None:
        if self.options.keep is not None:
            try:
                shutil.copytree(self.run_dir, self.options.keep, dirs_exist_ok=True, ignore=_not_kept)
                self.say(f"logs, pages and journal are in {self.options.keep}")
            except (OSError, shutil.Error) as error:
                self.say(f"cannot keep logs, pages and journal in {self.options.keep}: {error}")
        if self._own_run_dir:
            shutil.rmtree(self.run_dir, ignore_errors=True)
            return
        for pattern in (runs.NOTE, "token", "bells", "*.page", "*.ring", "*.lock", "*.want", "*.log", *_SOCKETS):
            for path in self.run_dir.glob(pattern):
                with contextlib.suppress(OSError):
                    path.unlink()


_SOCKETS: Final = ("ticks", "signals", "orders", "reports", "redis.sock")


def _not_kept(folder: str, names: list[str]) -> list[str]:
    """What is of no use to anybody afterwards: sockets, locks, the token."""
    files = [name for name in names if name == "token" or name.endswith(".lock")]
    return files + [name for name in names if stat.S_ISSOCK((Path(folder) / name).lstat().st_mode)]


def _merge(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Later parts win, key by key."""
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            old = merged.get(key)
            merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _to_environment(sections: Mapping[str, Any]) -> dict[str, str]:
    """The same as environment variables."""
    found: dict[str, str] = {}
    for key, value in sections.items():
        if isinstance(value, Mapping):
            for inner, item in value.items():
                found[f"{ENV_PREFIX}{key}__{inner}".upper()] = _to_text(item)
        else:
            found[f"{ENV_PREFIX}{key}".upper()] = _to_text(value)
    return found


def _to_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (list, dict, bool)) else str(value)


def _identity(files: tuple[Path, ...]) -> str:
    """Of the contents of files, as far as the file system tells; and of the code that reads them."""
    digest = hashlib.sha256(version("tickpath-sim").encode())
    for file in files:
        try:
            facts = file.stat()
        except OSError:
            facts = None
        digest.update(
            repr((str(file.absolute()), facts and (facts.st_size, facts.st_mtime_ns, facts.st_ino))).encode()
        )
    return digest.hexdigest()[:16]


def _check_host(key: str, host: str) -> None:
    """Raise LaunchError unless sockets of this machine can be bound to `host`."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            msg = f"{key} = {host!r}: {error.strerror}; allowed is an address of this machine, or a name of one"
            raise LaunchError(msg, EXIT_INPUT) from None


def _answers(redis_url: str) -> bool:
    import redis  # noqa: PLC0415 - only `up` asks

    try:
        with redis.Redis.from_url(redis_url, socket_timeout=1, socket_connect_timeout=1) as client:
            client.ping()
    except redis.AuthenticationError:
        return True  # it is there, and the password is for risk to give
    except (redis.RedisError, OSError):
        return False
    return True


def _hot_state(run_dir: Path, name: str) -> str:
    try:
        page = Page.open(hot_page_path(run_dir, name))
    except PageError:
        return HotState.STARTING.name
    return HotState(int(page["hot"][Hot.STATE])).name


def _last_lines(log: Path, most: int = 15) -> str:
    """What a process that has ended says of it: its plain words, or else what it noted as an error."""
    try:
        lines = log.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    plain: list[str] = []
    noted: list[str] = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            plain.append(line)
        elif entry.get("level") in ("error", "critical"):
            noted += [str(entry.get("event")), *str(entry.get("exception", "")).splitlines()]
    return "\n".join(f"  {line}" for line in (plain or noted or lines)[-most:])


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """What is left of a process and of those that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_S)
