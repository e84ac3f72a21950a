"""Shims that hold the containers of a pod, or of a namespace."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.runtimes import Stdio, TaskRef
from intermodal_core.errors import InvalidArgument, NotFound
from intermodal_core.testing.runtime_fixtures import MakeBundle, lives
from intermodal_shim.shared import SharedShimRuntime, Sharing

from tests.harness.shims import Daemon
from tests.harness.waiting import until

Run = Callable[[Callable[[Daemon], Awaitable[None]]], None]


@pytest.fixture
def sharing(with_daemon: Callable[..., None]) -> Callable[[Sharing], Run]:
    def of(kind: Sharing) -> Run:
        return lambda body: with_daemon(body, driver=partial(SharedShimRuntime, sharing=kind))

    return of


def runtime_of(daemon: Daemon) -> Any:
    return daemon.runtime


def test_a_namespace_has_one_shim(sharing: Any, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundles = [make_bundle(name, "sh", "-c", "read x; exit 3") for name in ("one-a", "one-b", "one-c", "one-d")]
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    shims: list[int] = []

    async def first(daemon: Daemon) -> None:
        stdio = Stdio(stdin=str(fifo))
        tasks = await asyncio.gather(*(daemon.create(bundle, stdio) for bundle in bundles))  # all at once
        shims.extend(daemon.runtime.shim_pid(task) for task in tasks)
        assert len(set(shims)) == 1
        for task in tasks:
            await daemon.runtime.start(task)
        await daemon.end(tasks[0])
        assert [(await daemon.runtime.state(task)).status for task in tasks[1:]] == ["running"] * 3
        again = await daemon.create(bundles[0], stdio)  # while the shim lives on
        assert daemon.runtime.shim_pid(again) == shims[0]
        await daemon.runtime.delete(again)

    async def second(daemon: Daemon) -> None:
        """The next daemon finds them all, and the last one to go takes the shim with it."""
        tasks = [TaskRef("imtest", name) for name in ("one-b", "one-c", "one-d")]
        for task, bundle in zip(tasks, bundles[1:], strict=True):
            await daemon.runtime.connect(task, str(bundle))
        # One is cleaned up, as where the daemon lost sight of it: the others go on.
        assert (await daemon.runtime.cleanup(tasks[0], str(bundles[1]))).status == 137
        with pytest.raises(NotFound):
            await daemon.runtime.state(tasks[0])
        for task in tasks[1:]:
            assert (await daemon.runtime.state(task)).status == "running"
            await daemon.end(task)

    sharing("namespace")(first)
    sharing("namespace")(second)
    until(lambda: not lives(shims[0]))


def test_a_pods_containers_have_one_by_annotation(sharing: Any, make_bundle: MakeBundle) -> None:
    pod = {"io.kubernetes.cri.sandbox-id": "pod"}
    bundles = [
        make_bundle("pod", "sleep", "1000", annotations=pod),
        make_bundle("member", "sleep", "1000", annotations=pod),
        make_bundle("other", "sleep", "1000", annotations={"io.kubernetes.cri.sandbox-id": "elsewhere"}),
        make_bundle("alone", "sleep", "1000"),
    ]

    async def body(daemon: Daemon) -> None:
        tasks = [await daemon.create(bundle) for bundle in bundles]
        shims = [daemon.runtime.shim_pid(task) for task in tasks]
        assert shims[0] == shims[1]
        assert len(set(shims)) == 3
        for task in tasks:
            await daemon.runtime.delete(task)

    sharing("pod")(body)


def test_all_end_with_a_shim_that_is_killed_and_are_cleaned_up(sharing: Any, make_bundle: MakeBundle) -> None:
    bundles = [make_bundle(name, "sleep", "1000") for name in ("a", "b")]

    async def body(daemon: Daemon) -> None:
        tasks = [await daemon.create(bundle) for bundle in bundles]
        inits = [await daemon.runtime.start(task) for task in tasks]
        os.kill(daemon.runtime.shim_pid(tasks[0]), signal.SIGKILL)
        for task, bundle in zip(tasks, bundles, strict=True):
            assert (await daemon.runtime.cleanup(task, str(bundle))).status == 137
        assert not any(map(lives, inits))
        await daemon.end(await daemon.create(bundles[0]))  # a new shim

    sharing("namespace")(body)


def test_a_create_that_fails_leaves_the_others(sharing: Any, make_bundle: MakeBundle) -> None:
    good, bad = make_bundle("good", "sleep", "1000"), make_bundle("bad", "no-such-command")

    async def body(daemon: Daemon) -> None:
        task = await daemon.create(good)
        with pytest.raises((NotFound, InvalidArgument)):
            await daemon.create(bad)
        assert (await daemon.runtime.state(task)).status == "created"
        await daemon.runtime.delete(task)

    sharing("namespace")(body)
