"""The end of a side process."""

from __future__ import annotations

import asyncio
import contextlib

from tickpath.common.service import cancel


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
