import asyncio
import os
import signal

import pytest

from worker.cli.interrupt import two_step_interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_work_goes_on(number: signal.Signals) -> None:
    async def session() -> str:
        asked = asyncio.Event()

        async def ask() -> None:
            asked.set()

        with two_step_interrupts(ask) as interrupts:
            os.kill(os.getpid(), number)
            await asyncio.wait_for(asked.wait(), 10)
        assert interrupts.count == 1
        return "done"

    assert asyncio.run(session()) == "done"


def test_the_second_signal_ends_the_work() -> None:
    async def session() -> None:
        async def insist() -> None:
            os.kill(os.getpid(), signal.SIGINT)

        with two_step_interrupts(insist):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.wait_for(asyncio.Event().wait(), 10)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(session())


def test_afterwards_signals_are_pythons_own_again() -> None:
    async def session() -> None:
        async def ask() -> None:
            raise AssertionError("nobody interrupted")

        with two_step_interrupts(ask):
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    asyncio.run(session())
