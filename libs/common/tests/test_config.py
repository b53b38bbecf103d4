"""Configuration: every fault at once, with key, value and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tickpath.common.config import ConfigError, load_config

ROOT = Path(__file__).parents[3]
LIMITS = """
[risk]
order_rate = "unlimited"
[risk.limits]
max_order_qty_lots = 1
max_order_notional = 1
collar_aggressive_bps = 1
collar_passive_bps = 1
max_spread_bps = 1
max_long_lots = 1
max_short_lots = 1
max_data_age_ms = 1
order_rate = 1
order_rate_window_ms = 1
"""


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("TICKPATH_"):
            monkeypatch.delenv(name)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tickpath.toml"
    path.write_text(text + LIMITS if "[risk]" not in text else text)
    return path


def faults(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(path)
    return str(error.value).splitlines()


def test_the_shipped_file_is_valid_and_names_every_limit() -> None:
    config = load_config(ROOT / "tickpath.toml")
    assert config.instruments == ROOT / "instruments.csv"
    assert [strategy.id for strategy in config.signals.strategies] == [1, 2]


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "[feed]\nport = 1000\n")
    assert load_config(path).feed.port == 1000
    monkeypatch.setenv("TICKPATH_FEED__PORT", "2000")
    monkeypatch.setenv("TICKPATH_CORES__FEED", "[0, 1]")
    config = load_config(path)
    assert config.feed.port == 2000
    assert config.cores.feed == (0, 1)


def test_all_faults_are_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, 'colour = "red"\n[feed]\nport = 99999\nprot = 1\n[admin]\ntoken = "x"\n')
    monkeypatch.setenv("TICKPATH_EXEC__PORT", "abc")
    monkeypatch.setenv("TICKPATH_EXCE__PORT", "1")
    said = "\n".join(faults(path))
    assert "feed.port = 99999: allowed is a whole number from 1 to 65535" in said
    assert "feed.prot: there is no such key; there are http_port, source, host" in said
    assert "admin.token: a secret does not belong here; set TICKPATH_ADMIN__TOKEN or token_file" in said
    assert "TICKPATH_EXEC__PORT: exec.port = 'abc'" in said
    assert "TICKPATH_EXCE__PORT: there is no section 'exce'" in said
    assert "colour: there is no such key" in said


def test_a_limit_has_no_default(tmp_path: Path) -> None:
    path = write(tmp_path, LIMITS.replace("max_long_lots = 1\n", ""))
    assert faults(path) == [f"{path}: risk.limits.max_long_lots: must be set (it has no default on purpose)"]


def test_unlimited_must_be_written_out(tmp_path: Path) -> None:
    path = write(tmp_path, LIMITS.replace("max_long_lots = 1\n", 'max_long_lots = "unlimited"\n'))
    assert load_config(path).risk.limits.max_long_lots == "unlimited"
    assert (
        "risk.limits.max_long_lots"
        in faults(write(tmp_path, LIMITS.replace("max_long_lots = 1", "max_long_lots = -1")))[0]
    )


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path: Path) -> None:
    assert "No such file" in faults(tmp_path / "none.toml")[0]
    assert "is not TOML" in faults(write(tmp_path, "port ="))[0]


def test_secrets_come_from_files_and_are_masked_when_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    monkeypatch.setenv("TICKPATH_ADMIN__TOKEN_FILE", str(secret))
    monkeypatch.setenv("TICKPATH_EXEC__PASSWORD", "hunter2")
    config = load_config(write(tmp_path, ""))
    assert config.admin.bearer() == "s3cret"
    assert config.exec.secret() == "hunter2"
    assert "hunter2" not in config.model_dump_json()
    monkeypatch.setenv("TICKPATH_ADMIN__TOKEN_FILE", str(tmp_path / "none"))
    assert "cannot read the secret file" in faults(write(tmp_path, ""))[0]


def test_two_strategies_cannot_have_one_id(tmp_path: Path) -> None:
    strategy = '[[signals.strategies]]\npath = "a:b"\nid = 1\n'
    path = write(tmp_path, strategy * 2)
    assert faults(path) == [f"{path}: signals.strategies: strategies must have distinct ids, they are [1, 1]"]


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("risk.order_rate", '"many"', "a whole number from 0 to 4611686018427387904 or 'unlimited'"),
        ("sim.speed", "-1", "a number above 0 or 'max' or 'step'"),
        ("sim.loop", '"perhaps"', "true or false"),
        ("sim.live", '"nyse"', "'binance' or 'binance-usdm' or 'binance-coinm' or 'kraken' or 'coinbase' or 'bybit'"),
        ("exec.username", '"much too long"', "text of 1 to 6 characters"),
        ("exec.journal_dir", "5", "a path"),
        ("links.log_ring", "3", "a power of two from 2 to 16777216"),
        ("signals.series_capacity", "1000", "a power of two from 2 to 16777216"),
        ("feed.order_capacity", "0", "a power of two from 2 to 16777216"),
        ("cores.feed", "3", "a list, each of it a whole number"),
        ("redis.url", '"127.0.0.1"', "text of the form ^(redis|rediss|unix)://.+"),
        ("feed", "5", "a section of keys and values"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(
    tmp_path: Path, key: str, value: str, allowed: str
) -> None:
    """However many ways there are to write a value, and whatever the validator calls them."""
    section, _, name = key.rpartition(".")
    if key == "risk.order_rate":
        text = LIMITS.replace('order_rate = "unlimited"', f"order_rate = {value}")
    else:
        text = f"[{section}]\n{name} = {value}\n" if section else f"{name} = {value}\n"
    path = write(tmp_path, text)
    (said,) = faults(path)
    assert said.startswith(f"{path}: {key} = ")
    assert said.endswith(f": allowed is {allowed}")


def test_a_variable_that_is_not_json_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TICKPATH_CORES__FEED", "0-1")
    (said,) = faults(write(tmp_path, ""))
    assert said == "TICKPATH_CORES__FEED = '0-1': allowed is a list, each of it a whole number, written as JSON"


HOSTS = ("admin.host", "links.tcp_host", "feed.host", "feed.line_b_host", "feed.snapshot_host", "exec.host")


@pytest.mark.parametrize("key", HOSTS)
@pytest.mark.parametrize("host", ["not an ip", "127.0.0.300", "1.2.3", "::g", "-x", "a..b", ""])
def test_a_host_that_can_be_none_is_refused_with_its_key(tmp_path: Path, key: str, host: str) -> None:
    section, _, name = key.partition(".")
    path = write(tmp_path, f'[{section}]\n{name} = "{host}"\n')
    assert faults(path) == [f"{path}: {key} = {host!r}: allowed is an IPv4 or IPv6 address, or a host name"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "239.1.2.3", "::1", "localhost", "sim", "tick_path-1.example.org", "3com"]
)
def test_a_host_may_be_an_address_or_a_name_that_only_its_user_can_resolve(tmp_path: Path, host: str) -> None:
    assert load_config(write(tmp_path, f'[exec]\nhost = "{host}"\n')).exec.host == host
