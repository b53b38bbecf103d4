"""The private Redis of demo and tests: it starts, answers, persists nothing, and is gone afterwards."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import redis

from tickpath.cli.redis_server import RedisServer, RedisServerError, find_server


def test_serves_on_a_free_port_and_ends_with_the_block(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.set("a", "1")
            assert client.get("a") == b"1"
        pid = server.pid
        assert os.path.exists(f"/proc/{pid}")  # noqa: PTH110 - a pseudo file
    assert not os.path.exists(f"/proc/{pid}")  # noqa: PTH110
    assert [path.name for path in tmp_path.iterdir()] == ["redis.log"]


def test_serves_on_a_unix_socket_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with (
        RedisServer(tmp_path / "d", port=None, unix_socket=path) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert client.ping()
    assert not path.exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RedisServerError, match=f"port {port} of 127.0.0.1 is in use"):
            RedisServer(tmp_path, port=port).start()


def test_needs_a_port_or_a_socket(tmp_path: Path) -> None:
    with pytest.raises(RedisServerError, match="needs a port or a unix socket"):
        RedisServer(tmp_path, port=None)


def test_a_server_that_refuses_to_start_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(RedisServerError, match="did not start"):
        RedisServer(tmp_path, port=None, unix_socket=tmp_path / ("x" * 200)).start()


def test_an_old_server_on_the_path_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search goes on to the wheel's server, and says what it saw when there is none."""
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.3 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_server() != old
    monkeypatch.setattr("tickpath.cli.redis_server.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RedisServerError, match=r"version 5\.0, needed is 6\.2 .* no Redis server found"):
        find_server()
