"""A registry that changes while it serves: rescan, reload, and a new config as a whole or not at all."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from intermodal_core import config, discovery
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from intermodal_core.events import EventBus
from intermodal_core.kinds import Kind
from intermodal_core.registry import Registry
from intermodal_core.spawner import Spawner

from tests.core.test_registry import Site, record, site  # noqa: F401 - the fixture

PART = """
import threading
import msgspec
class Config(msgspec.Struct, forbid_unknown_fields=True):
    shade: str = "grey"
gate = threading.Event()
gate.set()
log = []
class Part:
    def __init__(self, shade):
        self.own = shade
        log.append(("made", shade))
    def shade(self): return self.own
    def slow(self): gate.wait(20); return self.own
    def close(self): log.append(("closed", self.own))
"""
BODY = "if context.config.shade == 'bad': raise ValueError('no such shade')\n    return Part(context.config.shade)"


@pytest.fixture
def live(site: Site, tmp_path: Path) -> Live:  # noqa: F811
    site.kinds = [
        Kind("backends", close="close"),
        Kind("makers", close="close", lasting=True),
        Kind("services", guarded=False),
    ]
    return Live(site, tmp_path)


class Live:
    """A registry over the site whose config and plugins may change."""

    def __init__(self, site: Site, tmp_path: Path) -> None:  # noqa: F811
        self.site = site
        self.base = tmp_path
        self.file = tmp_path / "config.toml"
        self.file.write_text("version = 1\n")

    def part(self, name: str = "part", kind: str = "backends") -> Any:
        module = self.site.plugin(name, BODY, before=PART, options=", config=Config", kind=kind)
        return importlib.import_module(module)

    def configure(self, text: str) -> None:
        self.file.write_text(f"version = 1\n{text}")

    def run(self, test: Callable[[Registry], Awaitable[None]]) -> None:
        def read() -> config.Config:
            return config.load(self.file, {"root": str(self.base / "root"), "state": str(self.base / "state")})

        def find() -> list[discovery.Found]:
            return discovery.find(importlib.metadata.distributions(path=[str(self.site.path)]))

        async def main() -> None:
            bus, spawner = EventBus(self.base / "events"), Spawner()
            registry = Registry(find(), self.site.kinds, read(), bus, spawner, "/nowhere.sock", read)
            registry.changes._find = find
            try:
                await test(registry)
            finally:
                await registry.stop()
                bus.close()
                spawner.close()

        asyncio.run(main())


# Reload.


def test_a_new_instance_takes_over_and_calls_under_way_finish_on_the_old(live: Live) -> None:
    module = live.part()
    live.configure('[backends.part]\nshade = "red"\n')

    async def test(registry: Registry) -> None:
        part = await registry.require("backends", "part")
        module.gate.clear()
        slow = asyncio.create_task(part.slow())
        assert await part.shade() == "red"
        live.configure('[backends.part]\nshade = "blue"\n')
        reloading = asyncio.create_task(registry.changes.reload("backends", "part"))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(part.shade())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert not reloading.done()
        module.gate.set()
        assert await slow == "red"
        assert (await reloading).applied == ("backends.part",)
        assert await waiting == "blue"
        assert await (await registry.require("backends", "part")).shade() == "blue"
        assert registry.config.section("backends", "part").options == {"shade": "blue"}

    live.run(test)
    assert module.log == [("made", "red"), ("closed", "red"), ("made", "blue"), ("closed", "blue")]


def test_a_reload_that_fails_leaves_the_old_config(live: Live) -> None:
    module = live.part()

    async def test(registry: Registry) -> None:
        part = await registry.require("backends", "part")
        live.configure('[backends.part]\nshade = "bad"\n')
        with pytest.raises(FailedPrecondition, match=r"no such shade.*it goes on with the config of before"):
            await registry.changes.reload("backends", "part")
        assert await part.shade() == "grey"
        live.configure("[backends.part]\nshdae = 1\n")
        with pytest.raises(InvalidArgument, match=r"config.toml:3: .* did you mean \"shade\""):
            await registry.changes.reload("backends", "part")
        with pytest.raises(NotFound):
            await registry.changes.reload("backends", "none")
        assert await part.shade() == "grey"

    live.run(test)
    assert module.log == [("made", "grey"), ("closed", "grey"), ("made", "grey"), ("closed", "grey")]


@pytest.mark.parametrize("again", ["reload", "rescan"])
def test_one_that_cannot_go_on_either_says_so_until_it_can(live: Live, again: str) -> None:
    module = live.part()

    async def test(registry: Registry) -> None:
        part = await registry.require("backends", "part")
        make, module.Part = module.Part, None
        with pytest.raises(FailedPrecondition):
            await registry.changes.reload("backends", "part")
        assert record(registry, "part").state == "failed"
        with pytest.raises(Unavailable, match=r"backends.part is failed: .*not callable"):
            await part.shade()
        module.Part = make
        await (registry.changes.rescan() if again == "rescan" else registry.changes.reload("backends", "part"))
        assert record(registry, "part").state == "ready"
        assert await part.shade() == "grey"

    live.run(test)


def test_a_busy_one_is_left_alone(live: Live) -> None:
    module = live.part()
    live.configure("stop_deadline = 0.1\n")

    async def test(registry: Registry) -> None:
        part = await registry.require("backends", "part")
        module.gate.clear()
        slow = asyncio.create_task(part.slow())
        await asyncio.sleep(0.05)
        with pytest.raises(FailedPrecondition, match=r"backends.part is busy: 1 calls under way"):
            await registry.changes.reload("backends", "part")
        assert await part.shade() == "grey"
        module.gate.set()
        assert await slow == "grey"

    live.run(test)


def test_what_a_lasting_instance_made_stays_with_it(live: Live) -> None:
    live.part("maker", "makers")

    async def test(registry: Registry) -> None:
        old = await registry.require("makers", "maker")
        live.configure('[makers.maker]\nshade = "blue"\n')
        await registry.changes.reload("makers", "maker")
        new = await registry.require("makers", "maker")
        assert (await old.shade(), await new.shade()) == ("grey", "blue")
        live.configure("[makers.maker]\nenabled = false\n")
        assert (await registry.changes.reconfigure()).applied == ("[makers.maker]", "[makers.maker]")
        with pytest.raises(FailedPrecondition, match=r"switched off in the config \(.*config.toml:3\)"):
            await registry.require("makers", "maker")
        assert await new.shade() == "blue"
        again = await registry.variant("makers", "maker", "maker", {"shade": "blue"})
        with pytest.raises(FailedPrecondition):
            registry.instance("makers", "maker")
        assert await again.shade() == "blue"

    live.run(test)


def test_a_service_is_replaced_by_a_restart_alone(live: Live) -> None:
    live.site.plugin("front", kind="services")

    async def test(registry: Registry) -> None:
        await registry.require("services", "front")
        with pytest.raises(FailedPrecondition, match="restart the daemon, which touches no container"):
            await registry.changes.reload("services", "front")

    live.run(test)


def test_a_variant_is_one_for_the_same_options(live: Live) -> None:
    module = live.part()

    async def test(registry: Registry) -> None:
        current = await registry.require("backends", "part")
        red = await registry.variant("backends", "part", "part", {"shade": "red"})
        assert red is await registry.variant("backends", "part", "part", {"shade": "red"})
        assert (await current.shade(), await red.shade()) == ("grey", "red")
        with pytest.raises(FailedPrecondition, match="no installed distribution offers gone"):
            await registry.variant("backends", "part", "gone", {})

    live.run(test)
    assert ("closed", "red") in module.log


# A new config.


def test_a_new_config_is_applied_as_far_as_it_can_be(live: Live) -> None:
    live.part()
    live.part("idle")
    live.site.plugin(
        "front", kind="services", options=", tables={'shades': list[str], 'tints': list[str]}, live=('tints',)"
    )
    live.configure('[backends.part]\nshade = "red"\n[backends.old]\nplugin = "part"\n')

    async def test(registry: Registry) -> None:
        part = await registry.require("backends", "part")
        await registry.require("services", "front")
        live.file.write_text(
            'version = 1\nlog_level = "warning"\njournal_bytes = 99999\n[backends.part]\nshade = "blue"\n'
            '[backends.idle]\nshade = "green"\n[backends.new]\nplugin = "part"\n[services.front]\nthreads = 2\n'
        )
        outcome = await registry.changes.reconfigure()
        assert set(outcome.applied) == {"log_level", *(f"[backends.{n}]" for n in ("part", "idle", "new", "old"))}
        assert [each.partition(" ")[0] for each in outcome.restart] == ["journal_bytes", "[services.front]"]
        assert await part.shade() == "blue"
        assert await (await registry.require("backends", "new")).shade() == "grey"
        assert await (await registry.require("backends", "idle")).shade() == "green"
        with pytest.raises(NotFound):
            registry.find("backends", "old")
        assert registry.config.core.log_level == "warning"
        assert registry.config.core.journal_bytes == 64 << 20, "what needs a start is not in force"
        again = await registry.changes.reconfigure()
        assert again.applied == ()
        assert again.restart == outcome.restart, "it is told until it is done"

    live.run(test)


@pytest.mark.parametrize(
    "mistake", ["[backends.zz]\nshdae = 1\n", '[backends.zz]\nplugin = "part"\nshade = 3\n', "x = 1\n", "["]
)
def test_a_config_with_a_mistake_changes_nothing(live: Live, mistake: str) -> None:
    live.part()

    async def test(registry: Registry) -> None:
        part, before = await registry.require("backends", "part"), registry.config
        live.configure(f'{mistake if mistake == "x = 1" else ""}[backends.part]\nshade = "blue"\n{mistake}')
        with pytest.raises(InvalidArgument):
            await registry.changes.reconfigure()
        assert registry.config is before
        assert await part.shade() == "grey"

    live.run(test)


def test_an_instance_that_refuses_its_new_config_takes_the_others_back(live: Live) -> None:
    live.part("a")
    live.part("b")
    live.part("m", "makers")

    async def test(registry: Registry) -> None:
        a, b = await registry.require("backends", "a"), await registry.require("backends", "b")
        m, before = await registry.require("makers", "m"), registry.config
        live.configure('[makers.m]\nshade = "blue"\n[backends.a]\nshade = "blue"\n[backends.b]\nshade = "bad"\n')
        with pytest.raises(FailedPrecondition, match=r"backends.b is failed: .*no such shade"):
            await registry.changes.reconfigure()
        assert (await a.shade(), await b.shade()) == ("grey", "grey")
        assert await registry.require("makers", "m") is m
        assert registry.config is before

    live.run(test)


# Rescan.


def test_a_rescan_finds_what_was_installed_and_removed(live: Live) -> None:
    live.site.plugin("leaves")
    live.site.plugin("stays")

    async def test(registry: Registry) -> None:
        await registry.require("backends", "stays")
        live.site.plugin("comes", "return type('P', (), {'close': lambda self: None})()")
        live.site.plugin("serves", kind="services")
        shutil.rmtree(live.site.path / "dist_leaves-1.0.dist-info")
        registry.kinds["services"] = Kind("services", guarded=False, eager=True)
        outcome = await registry.changes.rescan()
        assert set(outcome.applied) == {"backends.comes is new", "services.serves is new", "backends.leaves is gone"}
        assert outcome.restart == ()
        assert record(registry, "serves", "services").state == "ready"
        await registry.require("backends", "comes")
        info = live.site.path / "dist_stays-1.0.dist-info" / "METADATA"
        info.write_text(info.read_text().replace("Version: 1.0", "Version: 2.0"))
        outcome = await registry.changes.rescan()
        assert outcome.restart == ("backends.stays is loaded from dist-stays 1.0, and 2.0 is installed",)

    live.run(test)


def test_a_rescan_tries_anew_what_had_failed(live: Live, tmp_path: Path) -> None:
    needed = live.site.plugin(
        "broken",
        raw="import not_there_yet\nfrom intermodal_core.plugin import Plugin\nplugin = Plugin(factory=lambda c: not_there_yet)\n",
    )
    wrong = live.site.plugin("wrong", raw="raise ValueError('in release 1')\n")

    async def test(registry: Registry) -> None:
        for name in ("broken", "wrong"):
            await registry.load(record(registry, name))
            assert record(registry, name).state == "failed"
        assert (await registry.changes.rescan()).applied == ()
        (live.site.path / "not_there_yet.py").write_text("def close(): pass\n")
        (live.site.path / f"{wrong}.py").write_text((live.site.path / f"{needed}.py").read_text())
        outcome = await registry.changes.rescan()
        assert outcome.applied == (
            "backends.broken is ready now, it was failed",
            "backends.wrong is ready now, it was failed",
        )

    live.run(test)


def test_a_rescan_forgives_who_ended_the_daemon(live: Live, tmp_path: Path) -> None:
    live.site.plugin("deadly", "return type('P', (), {'close': lambda self: None})()")
    marker = tmp_path / "state" / "initialising" / "backends.deadly"
    marker.parent.mkdir(parents=True)
    marker.write_text("2")

    async def test(registry: Registry) -> None:
        assert record(registry, "deadly").code == "ended_daemon"
        assert (await registry.changes.rescan()).applied == ("backends.deadly is available now, it was failed",)
        await registry.require("backends", "deadly")

    live.run(test)


# The path.


def test_path_lines_are_taken_up_and_code_needs_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, one, two = tmp_path / "site-packages", tmp_path / "one", tmp_path / "two"
    for each in (directory, one, two):
        each.mkdir()
    monkeypatch.setattr("site.getsitepackages", lambda: [str(directory)])
    monkeypatch.setattr("site.ENABLE_USER_SITE", False)
    monkeypatch.setattr("sys.path", [*sys.path])
    (directory / "old.pth").write_text("import old_hook\n")
    path = discovery.SearchPath()
    assert path.extend() == []
    (directory / "new.pth").write_text(f"# {one}\n{one}\n../two\n/nowhere\n\n")
    (directory / "code.pth").write_text("import hook; hook.install()\n")
    before = list(sys.path)
    assert path.extend() == [f"{directory}/code.pth has a line of code, which Python runs at its start alone"]
    assert sys.path == [*before, str(one), f"{directory}/../two"]
    path.extend()
    assert sys.path == [*before, str(one), f"{directory}/../two"]
