import asyncio

from worker.cancellation import end_tasks


def test_a_task_that_swallows_a_cancellation_ends_all_the_same() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 1:
                    raise

    async def test() -> None:
        task = asyncio.create_task(stubborn())
        await asyncio.sleep(0)
        await end_tasks([task])
        assert task.cancelled()

    asyncio.run(test())
    assert swallowed == 2


def test_tasks_that_have_ended_or_fail_are_no_obstacle() -> None:
    async def fail() -> None:
        raise ValueError("x")

    async def test() -> None:
        done = asyncio.create_task(asyncio.sleep(0))
        failed = asyncio.create_task(fail())
        await asyncio.wait([done, failed])
        await end_tasks([done, failed])
        assert isinstance(failed.exception(), ValueError)

    asyncio.run(test())
