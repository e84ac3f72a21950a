"""The asyncio face: the same paths, and what only it can do, many things at once in one thread."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from intermodal import AsyncClient, Client, DeadlineExceeded, FailedPrecondition, events

Body = Callable[[AsyncClient], Awaitable[None]]


@pytest.fixture
def run(ready: Client) -> Callable[[Body], None]:
    """Runs a coroutine function with an asyncio client for the namespace of `ready`."""

    async def main(body: Body) -> None:
        directory = ready._channel.io.base()
        async with AsyncClient(ready.address, ready.namespace, timeout=30, directory=directory) as client:
            await asyncio.wait_for(body(client), 60)

    return lambda body: asyncio.run(main(body))


def test_the_example(run: Callable[[Body], None]) -> None:
    async def body(client: AsyncClient) -> None:
        container = await client.containers.create("my-container", image="busybox:latest")
        await container.start()
        output = await container.exec.run(["echo", "Hello World!"])
        assert str(output) == "Hello World!\n"
        assert await container.stop(timeout=0.1) == 137
        await container.delete()

    run(body)


def test_many_at_once(run: Callable[[Body], None]) -> None:
    async def body(client: AsyncClient) -> None:
        container = await client.containers.run("busybox", detach=True)
        numbers = [str(number) for number in range(16)]
        outputs = await asyncio.gather(*(container.exec.run(["cat"], input=number) for number in numbers))
        assert [output.text for output in outputs] == numbers

    run(body)


def test_reading_waits_without_blocking_the_loop(run: Callable[[Body], None]) -> None:
    async def body(client: AsyncClient) -> None:
        container = await client.containers.run("busybox", detach=True)
        async with await container.exec.create(["cat"], stdin=True) as process:
            await process.start()
            reader = asyncio.ensure_future(process.read())
            await asyncio.sleep(0)
            with pytest.raises(FailedPrecondition, match="Another reader"):
                await process.read()
            await process.write("a")
            assert await reader == ("stdout", b"a")
            with pytest.raises(DeadlineExceeded):
                await process.read(0.05)
            # The read that was given up took nothing with it.
            await process.write("b")
            assert await process.read(10) == ("stdout", b"b")
            await process.close_stdin()
            assert [chunk async for chunk in process] == []

    run(body)


def test_a_cancelled_exec_is_killed(run: Callable[[Body], None]) -> None:
    async def body(client: AsyncClient) -> None:
        container = await client.containers.run("busybox", detach=True)
        task = asyncio.ensure_future(container.exec.run(["sleep", "1000"]))
        for _ in range(1000):
            if len(await container.pids()) > 1:
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await container.pids() == [container.pid]

    run(body)


def test_events(run: Callable[[Body], None]) -> None:
    async def body(client: AsyncClient) -> None:
        stream = client.events(['topic=="/images/create"'])
        first = asyncio.ensure_future(anext(stream))
        image = await client.images.get("busybox")
        for number in range(200):
            await image.tag(f"probe:{number}")
            if (await asyncio.wait({first}, timeout=0.05))[0]:
                break
        event = await first
        assert isinstance(event.message, events.ImageCreate)
        assert event.message.name.startswith("docker.io/library/probe:")
        await stream.aclose()  # type: ignore[attr-defined]

    run(body)
