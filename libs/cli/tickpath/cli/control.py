"""The HTTP endpoints of running services, as the commands use them."""

from __future__ import annotations

import getpass
import http.client
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tickpath.cli import runs
from tickpath.common.config import SERVICES, load_config

_TIMEOUT_S: Final = 3.0


class ControlError(Exception):
    """A service cannot be asked, or says no; the message says which, why, and what to do."""


class InputError(ControlError):
    """What was asked for cannot be had: a name, a format, a file; the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The side process of one service."""

    host: str
    port: int
    name: str = ""
    token: str | None = None

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """(HTTP status, JSON) of a request. Raises ControlError when nobody answers."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            msg = f"{self.name or 'the service'} does not answer on {self.host}:{self.port} ({said})"
            raise ControlError(msg) from None
        finally:
            connection.close()

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """JSON of a request that must succeed. Raises ControlError with what the service says."""
        status, answer = self.request(method, path, body)
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise ControlError(_complaint(self.name, path, status, answer))
        return answer

    def ready(self) -> tuple[bool, str]:
        """Whether /readyz says yes, and why not."""
        try:
            status, answer = self.request("GET", "/readyz")
        except ControlError as error:
            return False, str(error)
        return status == http.HTTPStatus.OK, ", ".join((answer or {}).get("why", []))


def _complaint(name: str, path: str, status: int, answer: Any) -> str:
    detail = answer.get("detail") if isinstance(answer, dict) else answer
    if isinstance(detail, dict) and "faults" in detail:
        detail = detail["faults"]
    if isinstance(detail, list):
        detail = "\n".join(
            f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}"
            if isinstance(item, dict) and "loc" in item
            else str(item)
            for item in detail
        )
    hint = {
        http.HTTPStatus.UNAUTHORIZED: " (--token, or TICKPATH_ADMIN__TOKEN)",
        http.HTTPStatus.NOT_FOUND: f" ({path})",
    }.get(http.HTTPStatus(status), "")
    return f"{name}: {detail}{hint}"


class System:
    """The services of a running system: of a launcher on this machine, else of the configuration."""

    def __init__(self, host: str, ports: Mapping[str, int], token: str | None, run_dir: Path, where: str) -> None:
        self.run_dir = run_dir
        self.where = where
        self.endpoints = {name: Endpoint(host, port, name, token) for name, port in ports.items()}

    @classmethod
    def find(cls, config: Path | None = None, run_dir: Path | None = None, token: str | None = None) -> System:
        """The system of `config` when that is given, else the one that a launcher runs (on `run_dir`).

        Raises RunError, ConfigError.
        """
        if config is None:
            try:
                run = runs.find_run(run_dir)
            except runs.RunError:
                if run_dir is not None:
                    raise
            else:
                where = f"{run.command} {run.pid} on {run.run_dir}"
                return cls(run.host, run.http_ports, token or run.token(), Path(run.run_dir), where)
        loaded = load_config(config)
        ports = {name: loaded.http_port(name) for name in (*SERVICES, "sim")}
        folder = run_dir or loaded.run_dir
        return cls(
            loaded.admin.host, ports, token or loaded.admin.bearer(), folder, str(config or "the configuration")
        )

    def __getitem__(self, name: str) -> Endpoint:
        return self.endpoints[name]

    def status(self) -> dict[str, Any]:
        """What each service says of itself, or ``{"unreachable": why}``."""
        found: dict[str, Any] = {}
        for name, endpoint in self.endpoints.items():
            try:
                found[name] = endpoint.ask("GET", "/status")
            except ControlError as error:
                found[name] = {"unreachable": str(error)}
        return found


class Risk:
    """Limits and kill switches through risk's endpoints."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def limits(self) -> Any:
        """All limits by scope."""
        return self._endpoint.ask("GET", "/limits")

    def set_limits(self, key: str, values: Mapping[str, str], reason: str) -> Any:
        """Change some limits of one scope."""
        return self._endpoint.ask("POST", "/control/limits", {**_by(key, reason), "limits": dict(values)})

    def switches(self) -> Any:
        """Trading states that were ever set."""
        return self._endpoint.ask("GET", "/kill")

    def trip(self, key: str, reason: str, state: str) -> Any:
        """Trip a kill switch."""
        return self._endpoint.ask("POST", "/control/kill", {**_by(key, reason), "state": state})

    def rearm(self, key: str, reason: str) -> Any:
        """Re-arm a kill switch that was tripped."""
        return self._endpoint.ask("POST", "/control/rearm", _by(key, reason))


def _by(key: str, reason: str) -> dict[str, Any]:
    try:
        who = getpass.getuser()
    except (OSError, KeyError):  # a user id without a name
        who = f"uid {os.getuid()}"
    return {"scope": key, "who": who, "reason": reason}
