"""The fused lane as processes: all services answer for the one hot process; it drains, and it may be killed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.test_kill import Pipeline, assert_all_agree, running
from tickpath.cli.control import Endpoint, Risk
from tickpath.common.config import SERVICES
from tickpath.common.pages import Hot, Page, hot_page_path

pytestmark = pytest.mark.pipeline


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    with running("fused") as system:
        yield system


def endpoint(pipeline: Pipeline, name: str) -> Endpoint:
    config = pipeline.system.config
    return Endpoint(config.admin.host, config.http_port(name), name, pipeline.system.token)


def open_orders(pipeline: Pipeline) -> list[Any]:
    found: list[Any] = endpoint(pipeline, "exec").ask("GET", "/orders")["orders"]
    return found


def test_every_service_answers_and_commands_as_in_the_other_lanes(pipeline: Pipeline) -> None:
    """Health, status, metrics; pause and resume, kill switch and re-arm, cancel-all, drain."""
    pipeline.exchange.ask("POST", "/control/start")
    pipeline.trades()
    sample = pipeline.watch.sample()
    assert len({int(sample.services[name].hot[Hot.PID]) for name in SERVICES}) == 1
    counted = {"feed": "ticks", "signals": "signals_new", "risk": "orders_approved", "exec": "orders_sent"}
    for name, counter in counted.items():
        at = endpoint(pipeline, name)
        assert at.ask("GET", "/healthz") == {"service": name, "healthy": True, "why": None}
        assert at.ready()[0]
        status = at.ask("GET", "/status")
        assert status["state"] == "READY"
        assert status["counters"][counter] > 0
        config = pipeline.system.config
        text = httpx.get(f"http://{config.admin.host}:{config.http_port(name)}/metrics").text
        (line,) = (line for line in text.splitlines() if line.startswith(f"tickpath_{name}_{counter}_total"))
        assert float(line.split()[-1]) > 0
        assert Page.open(hot_page_path(pipeline.system.run_dir, name)).meta["lane"] == "fused"

    signals, risk, gateway = (endpoint(pipeline, name) for name in ("signals", "risk", "exec"))
    signals.ask("POST", "/control/pause")
    pipeline.until("nothing is held back", lambda s: s.count("signals", "intents_muted") > 0)
    signals.ask("POST", "/control/resume")
    pipeline.trades()

    Risk(risk).trip("GLOBAL", "test", "HALTED")
    pipeline.until("not cancelled", lambda s: s.risk_core["n_orders"] == 0)
    halted = pipeline.until("nothing refused", lambda s: bool(s.risk_reasons.get("KILL_SWITCH_GLOBAL")))
    assert open_orders(pipeline) == []
    later = pipeline.until(
        "no more refusals", lambda s: s.risk_reasons["KILL_SWITCH_GLOBAL"] > halted.risk_reasons["KILL_SWITCH_GLOBAL"]
    )
    assert later.count("exec", "orders_sent") == halted.count("exec", "orders_sent")
    Risk(risk).rearm("GLOBAL", "test")
    pipeline.trades()

    gateway.ask("POST", "/control/cancel-all")
    pipeline.until(
        "no cancels", lambda s: s.count("exec", "orders_cancelled") > later.count("exec", "orders_cancelled")
    )
    pipeline.trades()

    risk.ask("POST", "/control/drain")  # of one: it drains the process that all share
    for _ in range(400):
        if "exec.hot" not in (sample := pipeline.watch.sample()).processes:
            break
        pipeline.system.stopping.wait(0.05)
    assert "exec.hot" not in sample.processes
    assert_all_agree(pipeline, sample)


def test_the_process_may_be_killed(pipeline: Pipeline) -> None:
    """Twice, under load: the books are behind a gap then, and nothing is traded until an operator trusts them."""
    pipeline.exchange.ask("POST", "/control/start")
    for _ in range(2):
        pipeline.trades()
        pipeline.kill("exec")
        back = pipeline.watch.sample()
        assert {back.services[name].hot[Hot.PID] for name in SERVICES} == {back.services["exec"].hot[Hot.PID]}
        pipeline.until("no more ticks", lambda s, back=back: s.count("feed", "ticks") > back.count("feed", "ticks"))
        endpoint(pipeline, "feed").ask("POST", "/control/trust-books")
        pipeline.trades()
    assert_all_agree(pipeline, pipeline.settle())
