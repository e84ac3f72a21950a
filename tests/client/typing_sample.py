"""What a user writes, for the type checker alone: nothing here is ever run."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, assert_type

import intermodal
from intermodal import AsyncClient, AsyncContainer, AsyncProcess, Client, Container, Event, Image, Output, Process
from intermodal.events import TaskExit


def blocking() -> None:
    with intermodal.from_env() as client:
        assert_type(client, Client)
        container = client.containers.create("my-container", image="busybox:latest", memory="64m", tty=False)
        assert_type(container, Container)
        container.start()
        output = container.exec.run(["echo", "Hello World!"])
        assert_type(output, Output)
        assert_type(output.exit_code, int)
        assert_type(output.stdout, bytes)
        assert_type(output.text, str)
        assert_type(container.wait(timeout=5), int)
        assert_type(container.labels, dict[str, str])
        assert_type(container.spec, dict[str, Any])
        assert_type(container.exit_code, int | None)
        assert_type(client.containers.run("busybox", ["true"]), Output)
        assert_type(client.containers.run("busybox", detach=True, labels={"a": "b"}), Container)
        assert_type(client.images.list(), Sequence[Image])
        with container.exec.create(["cat"], stdin=True) as process:
            assert_type(process, Process)
            for stream, data in process:
                print(stream, data)
        assert_type(client.events(), Iterator[Event])
        for event in client.events(['topic=="/tasks/exit"'], since=5):
            if isinstance(event.message, TaskExit):
                assert_type(event.message.exit_status, int)


async def asyncio() -> None:
    async with AsyncClient.from_env() as client:
        container = await client.containers.create(image="busybox")
        assert_type(container, AsyncContainer)
        assert_type(await container.exec.run("ls"), Output)
        assert_type(await client.containers.run("busybox", detach=True), AsyncContainer)
        assert_type(client.events(), AsyncIterator[Event])
        async with await container.attach() as process:
            assert_type(process, AsyncProcess)
            async for chunk in process:
                print(chunk.stream, chunk.data)


def refused(client: Client) -> None:
    client.containers.create(image="busybox", memmory="64m")  # type: ignore[call-arg]
    client.containers.create(image="busybox", cpus="many")  # type: ignore[arg-type]
    client.containers.start()  # type: ignore[attr-defined]
    intermodal.Nothing  # type: ignore[attr-defined]  # noqa: B018
