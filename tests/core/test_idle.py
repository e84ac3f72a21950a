import asyncio

from intermodal_core.idle import Idle


def test_expires_once_nothing_is_busy() -> None:
    async def scenario() -> None:
        idle, expired = Idle(), asyncio.Event()
        with idle.busy():
            idle.watch(0.01, expired.set)
            with idle.busy():
                assert idle.count == 2
            await asyncio.sleep(0.05)
            assert not expired.is_set()
        assert idle.count == 0
        await asyncio.wait_for(expired.wait(), 5)

    asyncio.run(scenario())


def test_a_new_call_puts_the_end_off() -> None:
    async def scenario() -> None:
        idle, expired = Idle(), asyncio.Event()
        idle.watch(0.02, expired.set)
        with idle.busy():
            await asyncio.sleep(0.06)
            assert not expired.is_set()
        await asyncio.wait_for(expired.wait(), 5)

    asyncio.run(scenario())


def test_not_watched_or_closed_it_never_calls() -> None:
    async def scenario() -> None:
        idle, expired = Idle(), asyncio.Event()
        with idle.busy():
            pass
        idle.watch(0.01, expired.set)
        idle.close()
        with idle.busy():
            pass
        await asyncio.sleep(0.05)
        assert not expired.is_set()

    asyncio.run(scenario())
