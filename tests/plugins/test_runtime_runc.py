"""The plugin `runc`: what it makes of its config, and when it does not run."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal_api.containerd.runtime.runc_options_pb2 import Options
from intermodal_core.contracts.runtimes import CreateTask, Runtime, TaskRef
from intermodal_core.errors import NotFound, PluginSkipped
from intermodal_core.spawner import Spawner
from intermodal_core.testing.contexts import context_of
from intermodal_runc.plugin import Config, plugin


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    for module in plugin.forked:
        spawner.preload(module, deadline=30)
    yield spawner
    spawner.close()


def make(tmp_path: Path, spawner: Any, **config: Any) -> Any:
    context = context_of("runtimes", "runc", msgspec.convert(config, Config), tmp_path, spawner=spawner)
    return plugin.factory(context)


def test_info_names_the_binary_and_its_version(tmp_path: Path, spawner: Spawner) -> None:
    runtime = make(tmp_path, spawner)
    assert isinstance(runtime, Runtime)
    info = asyncio.run(runtime.info())
    assert info.binary == shutil.which("runc")
    assert info.version.startswith("runc version")


def test_without_a_binary_it_is_skipped_and_lists_what_was_tried(
    tmp_path: Path, spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/one:/two")
    with pytest.raises(PluginSkipped, match=r"/one/runc, /two/runc") as skipped:
        make(tmp_path, spawner)
    assert "runc" in skipped.value.remedy
    with pytest.raises(PluginSkipped, match="/no/such"):
        make(tmp_path, spawner, binary="/no/such")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="binray"):
        msgspec.convert({"binray": "runc"}, Config)


@pytest.mark.parametrize(
    ("config", "options", "expected"),
    [
        ({}, Options(), ["--root {state}/runc/ns --log"]),
        ({"root": "/elsewhere"}, Options(), ["--root /elsewhere/ns --log"]),
        ({"systemd_cgroup": True}, Options(), ["--systemd-cgroup --log"]),
        ({"no_pivot": True}, Options(), ["--no-pivot"]),
        ({"no_new_keyring": True}, Options(), ["--no-new-keyring"]),
        ({"criu": "/opt/criu"}, Options(), ["--criu /opt/criu --log"]),
        ({}, Options(root="/asked"), ["--root /asked/ns --log"]),
        ({}, Options(systemd_cgroup=True, no_pivot_root=True), ["--systemd-cgroup --log", "--no-pivot"]),
        ({}, Options(no_new_keyring=True), ["--no-new-keyring"]),
    ],
)
def test_options_reach_the_runtime(
    tmp_path: Path, spawner: Spawner, config: dict[str, Any], options: Options, expected: list[str]
) -> None:
    calls = tmp_path / "calls"
    recorder = tmp_path / "recorder"
    recorder.write_text(f'#!/bin/sh\necho "$*" >> {calls}\nexit 1\n')
    recorder.chmod(0o755)
    bundle = tmp_path / "c"
    bundle.mkdir()
    (bundle / "config.json").write_text("{}")
    asked = Options(binary_name=str(recorder)) if not config else Options()
    asked.MergeFrom(options)
    given = {**config, "binary": str(recorder)} if config else {}
    runtime = make(tmp_path, spawner, **given)
    request = CreateTask(
        bundle=str(bundle), options_type="containerd.runc.v1.Options", options=asked.SerializeToString()
    )

    async def create() -> None:
        await runtime.create(TaskRef("ns", "c"), request)

    async def main() -> None:
        try:
            with pytest.raises(Exception, match="recorder create ended with status 1"):
                await create()
        finally:
            await runtime.stop()

    asyncio.run(main())
    create_call = calls.read_text().splitlines()[0]
    for words in expected:
        assert words.format(state=tmp_path / "state") in create_call


def test_a_task_that_there_is_not(tmp_path: Path, spawner: Spawner) -> None:
    runtime = make(tmp_path, spawner)

    async def main() -> None:
        with pytest.raises(NotFound):
            await runtime.state(TaskRef("ns", "c"))
        with pytest.raises(NotFound):
            await runtime.connect(TaskRef("ns", "c"), str(tmp_path))
        assert (await runtime.cleanup(TaskRef("ns", "c"), str(tmp_path))).status == 137

    asyncio.run(main())
