"""The HTTP endpoints that every side process serves: health, readiness, status, metrics, configuration, control."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Response, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from tickpath.common.clock import now_ns
from tickpath.common.histogram import summary_us
from tickpath.common.metrics import PageCollector
from tickpath.common.pages import Command, Control, Hot, HotState, Page, command, read_text

if TYPE_CHECKING:
    from tickpath.common.service import Service

_STUCK_NS = 1_000_000_000

_bearer = HTTPBearer(auto_error=False, description="the token of [admin]")


class Guard:
    """Dependency of every POST: the bearer token, or 401; 403 when none is configured and so nobody may."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None) -> None:
        """Raise HTTPException unless the request may go on."""
        if self._token is None:
            raise HTTPException(
                status.HTTP_403_FORBIDDEN,
                "control is off: set TICKPATH_ADMIN__TOKEN or admin.token_file and restart",
            )
        given = credentials.credentials if credentials else ""
        if not secrets.compare_digest(given.encode(), self._token.encode()):
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED, "bearer token missing or wrong", {"WWW-Authenticate": "Bearer"}
            )


def hot_summary(page: Page) -> dict[str, Any]:
    """What a hot page says, as JSON for people and for the launcher's report."""
    hot = page["hot"].tolist()
    now = now_ns()
    mask = hot[Hot.CORES_MASK]
    return {
        "state": HotState(hot[Hot.STATE]).name,
        "connected": bool(hot[Hot.CONNECTED]),
        "pid": hot[Hot.PID],
        "epoch": hot[Hot.EPOCH],
        "uptime_s": round((now - hot[Hot.STARTED_NS]) / 1e9, 3),
        "warm_up_s": round(max(0, hot[Hot.READY_NS] - hot[Hot.STARTED_NS]) / 1e9, 3),
        "turns": hot[Hot.TURNS],
        "last_turn_age_ms": round((now - hot[Hot.LAST_TURN_NS]) / 1e6, 3) if hot[Hot.LAST_TURN_NS] else None,
        "counters": dict(zip(page.meta["counters"], page["counters"].tolist(), strict=False)),
        "hops_us": {
            name: summary_us(hist) for name, hist in zip(page.meta["histograms"], page["hist"], strict=False)
        },
        "process": {
            "cores": [core for core in range(64) if mask >> core & 1],
            "nice": hot[Hot.NICE],
            "locked_mb": round(hot[Hot.LOCKED_BYTES] / 1e6, 1),
            "rss_mb": round(hot[Hot.RSS_BYTES] / 1e6, 1),
            "rss_ready_mb": round(hot[Hot.RSS_READY_BYTES] / 1e6, 1),
            "cpu_ns": hot[Hot.CPU_NS],
            "gc_collections": hot[Hot.GC_COUNT],
            "gc_pause_max_us": round(hot[Hot.GC_PAUSE_MAX_NS] / 1000, 1),
            "major_faults": hot[Hot.MAJOR_FAULTS],
            "minor_faults": hot[Hot.MINOR_FAULTS],
            "involuntary_switches": hot[Hot.INVOLUNTARY_SWITCHES],
            "compilations": hot[Hot.COMPILATIONS],
            "core_wait_ms": round(hot[Hot.CORE_WAIT_NS] / 1e6, 1),
        },
        "notes": read_text(page, "notes"),
        "error": read_text(page, "error"),
    }


def why_unhealthy(page: Page | None) -> str | None:
    """None when the hot process is alive and its loop turns."""
    if page is None:
        return "the hot process has no page yet"
    hot = page["hot"]
    state = HotState(int(hot[Hot.STATE]))
    if state in (HotState.STARTING, HotState.WARMING):
        return None
    if state not in (HotState.READY, HotState.DRAINING):
        return f"the hot process is {state.name}: {read_text(page, 'error')}".rstrip(": ")
    age = now_ns() - int(hot[Hot.LAST_TURN_NS])
    return f"the hot loop has not turned for {age / 1e9:.1f} s" if age > _STUCK_NS else None


def make_app(service: Service) -> FastAPI:
    """The application of a side process; `service` adds its own routes."""
    # With the files of /docs in it: where this runs there may be no way to the hosts that FastAPI loads them from.
    app = FastAPIOffline(
        title=f"Tickpath {service.name}", version=service.version, description=service.__doc__ or "", redoc_url=None
    )
    guard = Depends(Guard(service.config.admin.bearer()))
    registry = CollectorRegistry()
    registry.register(PageCollector(service.name, service.page, service.metrics))

    @app.get("/healthz", tags=["health"])
    def healthz(response: Response) -> dict[str, Any]:
        """200 while the process is alive and the hot loop that it has started turns; never asks anybody else."""
        fault = service.why_unhealthy()
        if fault:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {"service": service.name, "healthy": fault is None, "why": fault}

    @app.get("/readyz", tags=["health"])
    def readyz(response: Response) -> dict[str, Any]:
        """200 when warm, connected and synchronised."""
        faults = service.why_not_ready()
        if faults:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {
            "service": service.name,
            "ready": not faults,
            "why": faults,
            "warnings": service.warnings(),
            "restarts": service.restarts,
        }

    @app.get("/status", tags=["health"])
    def get_status() -> dict[str, Any]:
        """Everything that a person wants to see."""
        page = service.page()
        return {
            "service": service.name,
            "version": service.version,
            "restarts": service.restarts,
            "paused": bool(service.side["control"][Control.PAUSED]),
            "not_ready": service.why_not_ready(),
            "warnings": service.warnings(),
            **(hot_summary(page) if page is not None else {"state": "STARTING"}),
            **service.status(),
        }

    @app.get("/metrics", tags=["health"])
    def metrics() -> Response:
        """Prometheus text format."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/config", tags=["health"])
    def config() -> dict[str, Any]:
        """The configuration in force, secrets masked."""
        return service.config.model_dump(mode="json")

    @app.post("/control/pause", tags=["control"], dependencies=[guard])
    def pause() -> dict[str, Any]:
        """Take no new work; what is open goes on."""
        service.side["control"][Control.PAUSED] = 1
        return {"paused": True}

    @app.post("/control/resume", tags=["control"], dependencies=[guard])
    def resume() -> dict[str, Any]:
        """Undo pause."""
        service.side["control"][Control.PAUSED] = 0
        return {"paused": False}

    @app.post("/control/drain", tags=["control"], dependencies=[guard], status_code=status.HTTP_202_ACCEPTED)
    def drain() -> dict[str, Any]:
        """Finish what is open, then exit."""
        service.draining = True
        return {"draining": True, "command": command(service.side, Command.DRAIN)}

    service.add_routes(app, guard)
    return app
