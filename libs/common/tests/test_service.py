"""A side process: what it serves to a browser, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import httpx

from tickpath.common.admin import make_app
from tickpath.common.config import load_config
from tickpath.common.service import Service, cancel

ROOT = Path(__file__).parents[3]


class Quiet(Service):
    """A service that adds nothing of its own."""

    name: ClassVar[str] = "quiet"


def test_the_page_of_the_endpoints_needs_no_other_host(tmp_path: Path) -> None:
    """Behind a firewall /docs was a blank page: script, style and icon were to be had from the internet."""
    app = make_app(Quiet(load_config(ROOT / "tickpath.toml", run_dir=tmp_path)))

    async def look() -> tuple[str, dict[str, int]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://quiet") as client:
            page = (await client.get("/docs")).text
            named = set(re.findall(r"""(?:src|href)="([^"]+)|url: '([^']+)""", page))
            return page, {name: (await client.get(name)).status_code for pair in named for name in pair if name}

    page, assets = asyncio.run(look())
    assert "swagger" in page
    assert len(assets) == 4, assets  # style, script, icon and the description of the endpoints
    assert set(assets.values()) == {httpx.codes.OK}
    assert [name for name in assets if urlsplit(name).netloc] == []
    assert "https:" not in page


def test_a_task_whose_library_swallows_a_cancellation_ends_all_the_same() -> None:
    """As when it comes in the moment of a time-out: what was waited for is lost, and the task would go on."""
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while swallowed < 2:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            swallowed += 1
        await asyncio.sleep(60)

    async def run() -> bool:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await asyncio.wait_for(cancel(task), 30)
        return task.cancelled()

    assert asyncio.run(run())
    assert swallowed == 2


def test_a_task_that_has_ended_is_left_alone() -> None:
    async def run() -> bool:
        task = asyncio.create_task(asyncio.sleep(0))
        await task
        await cancel(task)
        return task.cancelled()

    assert not asyncio.run(run())
