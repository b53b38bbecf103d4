"""Configuration: one TOML file, overridden by ``TICKPATH_*`` environment variables, validated at start.

Key ``port`` of section ``[feed]`` is ``TICKPATH_FEED__PORT`` in the environment. Unknown keys are refused, and all
errors are reported at once with file, key, value and what is allowed. Secrets (`SECRETS`) come from the environment
or from a file that ``*_file`` names, never from the TOML.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

ENV_PREFIX: Final = "TICKPATH_"
CONFIG_ENV: Final = "TICKPATH_CONFIG"
DEFAULT_FILE: Final = Path("tickpath.toml")

SERVICES: Final = ("feed", "signals", "risk", "exec")
PROCESSES: Final = (*SERVICES, "sim")
LINKS: Final = ("ticks", "signals", "orders", "reports")

#: Keys that must not stand in the TOML.
SECRETS: Final = (("admin", "token"), ("exec", "password"), ("redis", "password"))

_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"({_LABEL}\.)*(?!\d+$){_LABEL}", re.IGNORECASE)


def _host(text: str) -> str:
    """An address or a name in the right form; whether it exists is seen where it is used, maybe much later."""
    try:
        ip_address(text)
    except ValueError:
        if not _HOST_NAME.fullmatch(text):
            raise
    return text


_HOST_WORDS: Final = "an IPv4 or IPv6 address, or a host name"
Host = Annotated[str, AfterValidator(_host), WithJsonSchema({"type": "string", "description": _HOST_WORDS})]
Port = Annotated[int, Field(ge=1, le=65535)]


def _is_power_of_two(value: int) -> int:
    if value & (value - 1):
        msg = "allowed is a power of two"
        raise ValueError(msg)
    return value


PowerOfTwo = Annotated[
    int, Field(ge=2, le=1 << 24, description="a power of two from 2 to 16777216"), AfterValidator(_is_power_of_two)
]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]  # of all: 0.05 is five in a hundred
#: How records move between the stages: ZeroMQ over Unix or TCP sockets, rings in shared memory, or not at all
#: because all four stages are one process.
Lane = Literal["zmq-ipc", "zmq-tcp", "shm", "fused"]

#: Crypto venues whose live markets the simulated exchange can play.
LiveVenue = Literal["binance", "binance-usdm", "binance-coinm", "kraken", "coinbase", "bybit"]

Limit = Annotated[int, Field(ge=0, le=2**62)] | Literal["unlimited"]


class ConfigError(Exception):
    """The configuration cannot be used; the message lists every fault."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdminConfig(_Section):
    """HTTP endpoints of the side processes."""

    host: Host = "127.0.0.1"
    token: SecretStr | None = None
    token_file: Path | None = None

    def bearer(self) -> str | None:
        """The token that POST requests must carry; None: they are all refused."""
        if self.token is not None:
            return self.token.get_secret_value()
        return read_secret(self.token_file) if self.token_file else None


class RedisConfig(_Section):
    """The shared store of limits, kill switches and positions."""

    url: Annotated[str, Field(pattern=r"^(redis|rediss|unix)://.+")] = "redis://127.0.0.1:6379/0"
    password: SecretStr | None = None
    password_file: Path | None = None
    key_prefix: str = "tickpath"
    sync_ms: Annotated[int, Field(ge=10, le=10_000)] = 100
    timeout_ms: Annotated[int, Field(ge=10, le=10_000)] = 500

    def secret(self) -> str | None:
        """Password, None if there is none."""
        if self.password is not None:
            return self.password.get_secret_value()
        return read_secret(self.password_file) if self.password_file else None


class LinksConfig(_Section):
    """How records move between stages."""

    lane: Lane = "zmq-ipc"
    tcp_host: Host = "127.0.0.1"
    tcp_base_port: Port = 26410  # two ports per link, in the order of LINKS
    frame_records: Annotated[int, Field(ge=1, le=65536)] = 1024  # most records in one frame
    tick_ring: PowerOfTwo = 1 << 17  # ticks that feed can send again
    log_ring: PowerOfTwo = 1 << 14  # signals or orders that may wait for their acknowledgement
    window: Positive = 4096  # records that a consumer lets a producer send ahead
    gap_timeout_ms: Positive = 500  # ticks: give a gap up after this long without an answer
    resend_ms: Positive = 200  # lossless links: begin again when nothing moved for so long
    heartbeat_ms: Positive = 100
    send_hwm_frames: Positive = 4096
    io_cores: tuple[int, ...] = ()  # cores of the ZeroMQ I/O threads; empty: any that the process may use


class TapsConfig(_Section):
    """What `tickpath tap` and `tickpath record` can see of the hot processes (docs/recording.md)."""

    enabled: bool = True  # signals, orders and ticks; the shm lane needs no rings of its own for them
    records: PowerOfTwo = 1 << 16  # that each of these rings holds
    capture: bool = False  # also all that comes from the network, as it came: `tickpath record --streams datagrams`
    capture_datagrams: PowerOfTwo = 1 << 14  # that its ring holds, 2064 bytes each


class ProcessConfig(_Section):
    """What a hot process asks of the operating system; each is read back and reported."""

    nice: Annotated[int, Field(ge=-20, le=19)] = -10
    lock_memory: bool = True
    poll_ms: Annotated[int, Field(ge=1, le=1000)] = 20  # longest sleep of the loop
    wait: Literal["adaptive", "spin", "yield", "block"] = "adaptive"  # how the shm and fused lanes wait for input


class CoresConfig(_Section):
    """Cores of each hot process (first: its loop); empty: all that the process may use."""

    feed: tuple[int, ...] = ()
    signals: tuple[int, ...] = ()
    risk: tuple[int, ...] = ()
    exec: tuple[int, ...] = ()
    sim: tuple[int, ...] = ()
    side: tuple[int, ...] = ()  # of all side processes


class FeedConfig(_Section):
    """Market data in."""

    http_port: Port = 8101
    source: Literal["itch", "text"] = "itch"  # MoldUDP64 with ITCH 5.0, or lines "symbol,price,size[,time]"
    host: Host = "127.0.0.1"  # unicast address to bind, or multicast group to join
    port: Port = 26400
    interface: str = "127.0.0.1"  # address of the interface on which a multicast group is joined
    line_b_port: Port | None = None  # the same packets once more, the first copy wins; None: there is one line
    line_b_host: Host = "127.0.0.1"
    line_b_interface: str = "127.0.0.1"
    retransmission_port: Port | None = None  # UDP: answers MoldUDP64 requests for missing messages; None: nobody does
    retransmission_host: Host = "127.0.0.1"
    snapshot_port: Port | None = None  # TCP: gives whole books over SoupBinTCP (GLIMPSE); None: nobody does
    snapshot_host: Host = "127.0.0.1"
    snapshot_username: Annotated[str, Field(min_length=1, max_length=6)] = "TICKPT"
    window_datagrams: Annotated[int, Field(ge=16, le=65536)] = 4096  # packets that may wait behind a gap
    reorder_us: Annotated[int, Field(ge=0, le=1_000_000)] = 500  # a gap may close by itself for so long
    announce_us: Annotated[int, Field(ge=0, le=10_000_000)] = 5000  # a gap that lasts longer makes all ticks SUSPECT
    request_timeout_ms: Annotated[int, Field(ge=1, le=10_000)] = 10  # then the missing messages are asked for again
    request_attempts: Annotated[int, Field(ge=1, le=100)] = 5  # without any answer; then a snapshot is taken
    snapshot_timeout_ms: Annotated[int, Field(ge=100, le=600_000)] = 10_000
    stale_ms: Annotated[int, Field(ge=100, le=600_000)] = 3000  # nothing heard, not even a heartbeat, for so long
    busy_poll_us: Annotated[int, Field(ge=0, le=10_000)] = 0  # SO_BUSY_POLL; 0: off
    kernel_stamps: bool = False  # measure how long datagrams wait in the socket (SO_TIMESTAMPNS)
    rcvbuf_bytes: Annotated[int, Field(ge=65536, le=1 << 30)] = 32 << 20
    batch: Annotated[int, Field(ge=1, le=1024)] = 64  # datagrams per receive call
    order_capacity: PowerOfTwo = 1 << 20
    level_capacity: Annotated[int, Field(ge=8, le=65536)] = 2048  # price levels per instrument and side


class StrategyConfig(_Section):
    """One running strategy."""

    path: str  # package.module:name or path/to/file.py:name
    id: Annotated[int, Field(ge=1, le=127)]
    params: dict[str, int | float | bool] = {}
    instruments: tuple[str, ...] = ()  # symbols; empty: all


def _distinct(strategies: tuple[StrategyConfig, ...]) -> tuple[StrategyConfig, ...]:
    ids = [strategy.id for strategy in strategies]
    if len(set(ids)) != len(ids):
        msg = f"strategies must have distinct ids, they are {ids}"
        raise ValueError(msg)
    return strategies


class SignalsConfig(_Section):
    """Strategies."""

    http_port: Port = 8102
    series_capacity: PowerOfTwo = 1024
    strategies: Annotated[tuple[StrategyConfig, ...], AfterValidator(_distinct)] = ()


class LimitsConfig(_Section):
    """Limits of an instrument where Redis has none yet. None has a default: "unlimited" must be written out."""

    max_order_qty_lots: Limit
    max_order_notional: Limit  # in whole units of the currency
    collar_aggressive_bps: Limit
    collar_passive_bps: Limit
    max_spread_bps: Limit  # a wider book gives no reference price
    max_long_lots: Limit
    max_short_lots: Limit
    max_data_age_ms: Limit
    order_rate: Limit  # orders per window and instrument
    order_rate_window_ms: Annotated[int, Field(ge=1, le=60_000)]


class RiskConfig(_Section):
    """Pre-trade controls."""

    http_port: Port = 8103
    limits: LimitsConfig
    order_capacity: PowerOfTwo = 1 << 16  # open orders that risk can hold
    max_open_orders: Positive = 10_000
    order_rate: Limit  # orders per window over all instruments
    order_rate_window_ms: Annotated[int, Field(ge=1, le=60_000)] = 1000
    control_lease_ms: Annotated[int, Field(ge=100, le=60_000)] = 2000
    cancel_repeat_ms: Annotated[int, Field(ge=10, le=60_000)] = 500


class ExecConfig(_Section):
    """Orders out."""

    http_port: Port = 8104
    host: Host = "127.0.0.1"
    port: Port = 26401
    username: Annotated[str, Field(min_length=1, max_length=6)] = "TICKPT"
    password: SecretStr | None = None
    password_file: Path | None = None
    journal_dir: Path = Path("journal")  # relative to run_dir unless absolute
    journal_fsync: Literal["none", "interval", "always"] = "none"
    journal_segment_entries: Annotated[int, Field(ge=1024, le=1 << 24)] = 1 << 16
    order_capacity: PowerOfTwo = 1 << 16
    reconnect_ms: Positive = 200  # first wait, doubled up to 20 times as long
    heartbeat_timeout_ms: Annotated[int, Field(ge=1000, le=60_000)] = 15_000
    drain_timeout_ms: Annotated[int, Field(ge=100, le=600_000)] = 5000

    def secret(self) -> str:
        """Password of the order session."""
        if self.password is not None:
            return self.password.get_secret_value()
        return (read_secret(self.password_file) if self.password_file else None) or ""


class SimConfig(_Section):
    """The simulated exchange."""

    http_port: Port = 8105
    data: tuple[Path, ...] = ()  # recorded files; empty: generate
    seed: int = 1
    rate: Annotated[float, Field(ge=0)] = 0.0  # messages per second; 0: as recorded
    speed: Annotated[float, Field(gt=0)] | Literal["max", "step"] = 1.0
    generate_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    generate_rate: Annotated[float, Field(gt=0, le=5_000_000)] = 20_000.0
    start: Literal["login", "command"] = "login"
    session: Annotated[str, Field(pattern=r"^[A-Z0-9]{0,10}$")] = ""  # its name; "": a new one at each start
    datagram_bytes: Annotated[int, Field(ge=100, le=65507)] = 1400
    loop: bool = True  # begin the tape again, under new message numbers, when it is through
    cancel_on_disconnect: bool = False
    ttl: Annotated[int, Field(ge=0, le=255)] = 0
    retransmission_packets: Annotated[int, Field(ge=1, le=64)] = 64  # that one request gets at most
    # What goes wrong from the start, each copy of a packet by itself; `tickpath.sim.layout.Fault` says how.
    fault_seed: Annotated[int, Field(ge=0, le=2**62)] = 1
    loss_a: Share = 0.0
    loss_b: Share = 0.0
    duplicate: Share = 0.0
    reorder: Share = 0.0
    delay: Share = 0.0
    delay_us: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    loss_retransmission: Share = 0.0
    # A live crypto market in the place of a tape (docs/crypto.md).
    live: LiveVenue | None = None
    live_symbols: tuple[str, ...] = ()  # as the venue writes them
    live_url: Annotated[str, Field(pattern=r"^wss?://.+")] | None = None  # another WebSocket server than the venue's
    live_http_url: Annotated[str, Field(pattern=r"^https?://.+")] | None = None  # and HTTP; None: the same host
    live_stale_s: Annotated[float, Field(ge=1, le=600)] = 30.0  # connect anew when no frame came for so long


class Config(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    run_dir: Path = Path("run")
    instruments: Path = Path("instruments.csv")  # relative to the configuration file unless absolute
    admin: AdminConfig = AdminConfig()
    redis: RedisConfig = RedisConfig()
    links: LinksConfig = LinksConfig()
    taps: TapsConfig = TapsConfig()
    process: ProcessConfig = ProcessConfig()
    cores: CoresConfig = CoresConfig()
    feed: FeedConfig = FeedConfig()
    signals: SignalsConfig = SignalsConfig()
    risk: RiskConfig
    exec: ExecConfig = ExecConfig()
    sim: SimConfig = SimConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over TOML; `load_config` says which file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def http_port(self, process: str) -> int:
        """Port of the endpoints of a service or of the simulated exchange."""
        port: int = getattr(self, process).http_port
        return port

    def journal_dir(self) -> Path:
        """Folder of exec's journal."""
        return self.run_dir / self.exec.journal_dir

    def link_addresses(self, link: str) -> tuple[str, str]:
        """Addresses of a link's data and of its WANT socket (the lossless links use the second one only)."""
        if self.links.lane != "zmq-tcp":
            base = f"ipc://{self.run_dir.resolve()}/{link}"
            return base, f"{base}.want"
        port = self.links.tcp_base_port + 2 * LINKS.index(link)
        return f"tcp://{self.links.tcp_host}:{port}", f"tcp://{self.links.tcp_host}:{port + 1}"


def read_secret(path: Path) -> str:
    """First line of a secret file. Raises ConfigError."""
    try:
        return path.read_text("utf-8").splitlines()[0].strip()
    except (OSError, IndexError) as error:
        msg = f"cannot read the secret file {path}: {getattr(error, 'strerror', None) or 'it is empty'}"
        raise ConfigError(msg) from None


def config_path(path: Path | None = None) -> Path:
    """The configuration file that is in force: argument, ``TICKPATH_CONFIG``, ``./tickpath.toml``."""
    return path or Path(os.environ.get(CONFIG_ENV) or DEFAULT_FILE)


def load_config(path: Path | None = None, **overrides: Any) -> Config:
    """Read and validate the configuration. Raises ConfigError that lists every fault.

    `overrides` are whole sections or top-level keys and win over environment and file.
    """
    file = config_path(path)
    faults: list[str] = []
    try:
        with file.open("rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        msg = f"cannot read the configuration {file}: {error.strerror} ({CONFIG_ENV} or --config names another one)"
        raise ConfigError(msg) from None
    except tomllib.TOMLDecodeError as error:
        msg = f"{file} is not TOML: {error}"
        raise ConfigError(msg) from None
    for section, key in SECRETS:
        if isinstance(content.get(section), dict) and key in content[section]:
            name = f"{ENV_PREFIX}{section}__{key}".upper()
            faults.append(f"{file}: {section}.{key}: a secret does not belong here; set {name} or {key}_file")
    for name in sorted(os.environ):
        section = name.removeprefix(ENV_PREFIX).partition("__")[0].lower()
        if name.startswith(ENV_PREFIX) and "__" in name and section not in Config.model_fields:
            faults.append(f"{name}: there is no section {section!r}; there are {', '.join(Config.model_fields)}")

    class FileConfig(Config):
        model_config = SettingsConfigDict(**{**Config.model_config, "toml_file": file})

    config: Config | None = None
    try:
        config = FileConfig(**overrides)
    except SettingsError:
        faults += _not_json()
    except ValidationError as error:
        # One line for each key, however many ways there are to write its value.
        faults += dict.fromkeys(_explain(item, file) for item in error.errors())
    if config is not None:
        try:
            config.admin.bearer(), config.exec.secret(), config.redis.secret()
        except ConfigError as error:
            faults.append(str(error))
    if faults or config is None:
        raise ConfigError("\n".join(faults))
    if not config.instruments.is_absolute():
        config = config.model_copy(update={"instruments": file.parent / config.instruments})
    return config


def _explain(item: Any, file: Path) -> str:
    """One line for one fault: where, key, value, what is allowed."""
    node, parts = _find(item["loc"])
    unknown = item["type"] == "extra_forbidden"
    if unknown:
        parts.append(str(item["loc"][-1]))
    key = ".".join(parts)
    variable = ENV_PREFIX + "__".join(parts[:2]).upper()
    where = variable if variable in os.environ else str(file)
    if unknown:
        return f"{where}: {key}: there is no such key; there are {', '.join(node['properties'])}"
    if item["type"] == "missing":
        return f"{where}: {key}: must be set (it has no default on purpose)"
    allowed = _words(node)
    if item["type"] == "value_error" and "description" not in node:
        return f"{where}: {key}: {item['ctx']['error']}"
    return f"{where}: {key} = {item['input']!r}: allowed is {allowed}"


def _find(place: Sequence[str | int]) -> tuple[dict[str, Any], list[str]]:
    """JSON schema of what is there, and its key: `place` as far as it exists."""
    whole = node = Config.model_json_schema()
    key: list[str] = []
    for part in place:
        inner = node.get("items") if isinstance(part, int) else node.get("properties", {}).get(part)
        inner = inner or node.get("additionalProperties")
        if not inner:
            break  # a key that does not exist, or which of several ways to write the value was tried
        node = whole["$defs"][inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
        key.append(str(part))
    return node, key


def _not_json() -> Iterator[str]:
    """Variables of lists and sections whose text pydantic-settings cannot read."""
    for name in sorted(os.environ):
        if name.startswith(ENV_PREFIX):
            node, key = _find(name.removeprefix(ENV_PREFIX).lower().split("__"))
            if node.get("type") in ("array", "object") and key:
                try:
                    json.loads(os.environ[name])
                except ValueError:
                    yield f"{name} = {os.environ[name]!r}: allowed is {_words(node)}, written as JSON"


def _words(schema: dict[str, Any]) -> str:
    """What a JSON schema allows, for people."""
    ways = [way for way in schema.get("anyOf", ()) if way["type"] != "null"]
    if ways:
        return " or ".join(map(_words, ways))
    if "const" in schema or "enum" in schema:
        return " or ".join(map(repr, schema.get("enum", [schema.get("const")])))
    match schema["type"]:
        case "object":
            return "a section of keys and values"
        case "array":
            return f"a list, each of it {_words(schema['items'])}" if "$ref" not in schema["items"] else "a list"
        case "boolean":
            return "true or false"
        case "integer" | "number" as kind:
            if "description" in schema:
                return str(schema["description"])
            return ("a whole number" if kind == "integer" else "a number") + _range(schema)
    if "pattern" in schema:
        return f"text of the form {schema['pattern']}"
    if "maxLength" in schema:
        return f"text of {schema['minLength']} to {schema['maxLength']} characters"
    described: str = schema.get("description") or ("a path" if schema.get("format") == "path" else "text")
    return described


def _range(schema: dict[str, Any]) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']}" + (f", up to {most}" if most is not None else "")
    if least is not None:
        return f" from {least} to {most}" if most is not None else f" of at least {least}"
    return ""
