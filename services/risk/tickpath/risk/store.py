"""The shared store: limits, trading states, positions and the audit trail in Redis.

| key (behind the prefix, default ``tickpath``) | type | what |
| --- | --- | --- |
| ``:risk:version`` | integer | +1 with every change of limits or states; a poll of it is one cheap round trip |
| ``:risk:limits`` | hash | ``SCOPE:NAME.limit`` → number as text or ``unlimited``; scopes as in `Names.key`, NAME ``*`` is the default of all symbols or strategies |
| ``:risk:states`` | hash | ``SCOPE:NAME`` → JSON ``{"state", "reason", "who", "at"}`` |
| ``:risk:positions`` | hash | symbol → JSON ``{"position_lots", "open_buy_lots", "open_sell_lots", "at"}``: a copy, the journal is the truth |
| ``:risk:audit`` | stream | who changed what, when and why; the last 10,000 or so |

Every change of limits or states is one transaction with its version and its audit line.
"""  # noqa: E501 - the table

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, WatchError

from tickpath.common.config import RedisConfig
from tickpath.risk.limits import TradingState

_AUDIT_LENGTH: Final = 10_000
_ATTEMPTS: Final = 20


class StoreError(Exception):
    """Redis cannot be reached, or what it holds cannot be used."""


@dataclass(frozen=True, slots=True)
class Switch:
    """A trading state with the one who set it and why."""

    state: TradingState
    reason: str
    who: str
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    def to_json(self) -> str:
        """As stored."""
        return json.dumps({"state": self.state.name, "reason": self.reason, "who": self.who, "at": self.at})

    @classmethod
    def from_json(cls, key: str, text: str) -> Switch:
        """Inverse of `to_json`. Raises StoreError naming the key."""
        try:
            value = json.loads(text)
            return cls(TradingState[value["state"]], str(value["reason"]), str(value["who"]), str(value["at"]))
        except (ValueError, KeyError, TypeError):
            allowed = ", ".join(TradingState.__members__)
            msg = f"state of {key} in Redis is {text!r}, not JSON with a state of {allowed}, reason, who and at"
            raise StoreError(msg) from None


@dataclass(slots=True)
class Shared:
    """Limits by key and the trading states that were ever set, as of one version."""

    version: int = 0
    limits: dict[str, dict[str, str]] = field(default_factory=dict)
    states: dict[str, Switch] = field(default_factory=dict)


def connect(config: RedisConfig) -> Redis:
    """Client that fails within ``redis.timeout_ms`` instead of trying again by itself."""
    timeout_s = config.timeout_ms / 1000
    return Redis.from_url(
        config.url,
        password=config.secret(),
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )


class Store:
    """All that is said to Redis. Every method raises StoreError when Redis does not answer or holds nonsense."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self.client: Any = client  # its types cannot say that answers are decoded
        self._version = f"{prefix}:risk:version"
        self._limits = f"{prefix}:risk:limits"
        self._states = f"{prefix}:risk:states"
        self._positions = f"{prefix}:risk:positions"
        self._audit = f"{prefix}:risk:audit"

    async def poll(self, positions: Mapping[str, str]) -> int | None:
        """Version of limits and states, None when there are none; stores changed positions in the same round trip."""
        try:
            async with self.client.pipeline(transaction=False) as pipe:
                pipe.get(self._version)
                if positions:
                    pipe.hset(self._positions, mapping=dict(positions))
                answers = await pipe.execute()
            return None if answers[0] is None else int(answers[0])
        except (RedisError, OSError, ValueError) as error:
            raise _store_error(error) from None

    async def read(self) -> Shared:
        """Limits and states of one moment."""
        try:
            async with self.client.pipeline(transaction=True) as pipe:
                pipe.get(self._version)
                pipe.hgetall(self._limits)
                pipe.hgetall(self._states)
                version, limits, states = await pipe.execute()
        except (RedisError, OSError) as error:
            raise _store_error(error) from None
        shared = Shared(int(version or 0))
        for name, value in limits.items():
            key, _, limit = name.rpartition(".")
            shared.limits.setdefault(key, {})[limit] = value
        for key, text in states.items():
            shared.states[key] = Switch.from_json(key, text)
        return shared

    async def seed(
        self,
        limits: Mapping[str, Mapping[str, Any]],
        states: Mapping[str, Switch],
        why: str,
        *,
        overwrite: bool = False,
    ) -> None:
        """Write limits where there are none (or other ones, to `overwrite`), and states that are worse than there."""
        try:
            now = await self.read()
            there = _flat(now.limits)
            missing = {
                name: value
                for name, value in _flat(limits).items()
                if name not in there or (overwrite and there[name] != value)
            }
            worse = {
                key: switch
                for key, switch in states.items()
                if key not in now.states or switch.state > now.states[key].state
            }
            if not missing and not worse and now.version:
                return
            async with self.client.pipeline(transaction=True) as pipe:
                for name, value in missing.items():
                    pipe.hset(self._limits, name, value)
                for key, switch in worse.items():
                    pipe.hset(self._states, key, switch.to_json())
                self._conclude(pipe, "seed", ",".join([*missing, *worse]), "", "risk", why)
                await pipe.execute()
        except (RedisError, OSError) as error:
            raise _store_error(error) from None

    async def set_limits(self, key: str, limits: Mapping[str, str], who: str, reason: str) -> None:
        """Change limits of a scope (checked by the caller)."""
        try:
            async with self.client.pipeline(transaction=True) as pipe:
                pipe.hset(self._limits, mapping=_flat({key: limits}))
                self._conclude(pipe, "limits", key, json.dumps(dict(limits)), who, reason)
                await pipe.execute()
        except (RedisError, OSError) as error:
            raise _store_error(error) from None

    async def set_state(self, key: str, switch: Switch, *, rearm: bool = False) -> Switch:
        """Store a trading state and return the one in force: without `rearm` it only ever gets worse."""
        try:
            for _ in range(_ATTEMPTS):
                async with self.client.pipeline(transaction=True) as pipe:
                    await pipe.watch(self._states)
                    text = await pipe.hget(self._states, key)
                    if text is not None and not rearm:
                        now = Switch.from_json(key, text)
                        if now.state >= switch.state:
                            return now
                    pipe.multi()
                    pipe.hset(self._states, key, switch.to_json())
                    what = "rearm" if rearm else "kill"
                    self._conclude(pipe, what, key, switch.state.name, switch.who, switch.reason)
                    try:
                        await pipe.execute()
                    except WatchError:
                        continue  # somebody else changed a state in between: look again
                    return switch
        except (RedisError, OSError) as error:
            raise _store_error(error) from None
        raise StoreError(f"state of {key} was changed by others {_ATTEMPTS} times in a row")

    def _conclude(self, pipe: Any, what: str, key: str, value: str, who: str, reason: str) -> None:
        line = {"what": what, "key": key, "value": value, "who": who, "reason": reason}
        line["at"] = datetime.now(UTC).isoformat(timespec="milliseconds")
        pipe.xadd(self._audit, line, maxlen=_AUDIT_LENGTH, approximate=True)
        pipe.incr(self._version)

    async def audit(self, last: int) -> list[dict[str, str]]:
        """The last changes, newest first."""
        try:
            return [entry for _, entry in await self.client.xrevrange(self._audit, count=last)]
        except (RedisError, OSError) as error:
            raise _store_error(error) from None

    async def raise_version(self, at_least: int) -> None:
        """Make the version at least this: a store that lost its data must not seem older than what was read."""
        try:
            version = int(await self.client.get(self._version) or 0)
            if version < at_least:
                await self.client.incrby(self._version, at_least - version)
        except (RedisError, OSError) as error:
            raise _store_error(error) from None

    async def close(self) -> None:
        """Close the connections."""
        await self.client.aclose()


def _flat(limits: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {f"{key}.{name}": str(value) for key, values in limits.items() for name, value in values.items()}


def _store_error(error: Exception) -> StoreError:
    return StoreError(f"{type(error).__name__}: {error}")
