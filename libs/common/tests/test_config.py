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
    assert "feed.port = 99999: Input should be less than or equal to 65535" in said
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
    assert "distinct ids" in faults(write(tmp_path, strategy * 2))[0]
