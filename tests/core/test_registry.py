"""The registry over real distributions: each test installs what it needs into a directory of its own on the path."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from intermodal_core import config, discovery
from intermodal_core.errors import FailedPrecondition, InvalidArgument, NotFound
from intermodal_core.events import EventBus
from intermodal_core.kinds import Kind
from intermodal_core.registry import Record, Registry
from intermodal_core.spawner import Spawner

_number = itertools.count()

PLUGIN = """
from intermodal_core.plugin import Plugin
{before}
def make(context):
    {body}
plugin = Plugin(factory=make{options})
"""


class Site:
    """A directory on the path that distributions with one plugin each are installed into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kinds = [Kind("backends", guarded=False), Kind("services", guarded=False, eager=True)]
        self.config = "version = 1\n"

    def plugin(
        self,
        name: str,
        body: str = "return object()",
        *,
        options: str = "",
        before: str = "",
        kind: str = "backends",
        distribution: str = "",
        raw: str = "",
    ) -> str:
        """Install a plugin; returns its module's name."""
        module = f"sample_{next(_number)}"
        (self.path / f"{module}.py").write_text(raw or PLUGIN.format(body=body, options=options, before=before))
        info = self.path / f"{distribution or f'dist_{name}'}-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or f'dist-{name}'}\nVersion: 1.0\n")
        with open(info / "entry_points.txt", "a") as file:
            file.write(f"[intermodal.{kind}]\n{name} = {module}:plugin\n")
        return module

    def registry(self, tmp_path: Path) -> RegistryFor:
        return RegistryFor(self, tmp_path)


class RegistryFor:
    """A registry over a site, with the core parts that it needs."""

    def __init__(self, site: Site, tmp_path: Path) -> None:
        self._site = site
        self._base = tmp_path

    async def __aenter__(self) -> Registry:
        file = self._base / "config.toml"
        file.write_text(self._site.config)
        loaded = config.load(file, {"root": str(self._base / "root"), "state": str(self._base / "state")})
        found = discovery.find(importlib.metadata.distributions(path=[str(self._site.path)]))
        self._bus = EventBus(self._base / "events")
        self._spawner = Spawner()
        self._registry = Registry(found, self._site.kinds, loaded, self._bus, self._spawner, "/nowhere.sock")
        return self._registry

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._registry.stop()
        self._bus.close()
        self._spawner.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    path = tmp_path / "site"
    path.mkdir()
    sys.path.insert(0, str(path))
    yield Site(path)
    sys.path.remove(str(path))


def run(site: Site, tmp_path: Path, test: Callable[[Registry], Any]) -> None:
    async def main() -> None:
        async with site.registry(tmp_path) as registry:
            await test(registry)

    asyncio.run(main())


def record(registry: Registry, name: str, kind: str = "backends") -> Record:
    return registry.find(kind, name)


def test_nothing_is_imported_until_it_is_required(site: Site, tmp_path: Path) -> None:
    needed, other = site.plugin("needed"), site.plugin("other")

    async def test(registry: Registry) -> None:
        assert needed not in sys.modules
        await registry.require("backends", "needed")
        assert needed in sys.modules
        assert other not in sys.modules
        assert record(registry, "needed").state == "ready"
        assert record(registry, "other").state == "available"

    run(site, tmp_path, test)


def test_what_a_plugin_exports_is_known(site: Site, tmp_path: Path) -> None:
    """Also where its data lies, so that nobody needs to know by its name."""
    body = "context.root_dir(); context.exports['socket'] = '/run/x'; return object()"
    site.plugin("telling", body, options=", exports={'fixed': '1'}, annotations=('containerd.io/snapshot/x',)")

    async def test(registry: Registry) -> None:
        await registry.require("backends", "telling")
        told = record(registry, "telling")
        root = f"{registry.config.core.root}/backends/telling"
        assert told.exports == {"fixed": "1", "socket": "/run/x", "root": root}
        assert told.plugin is not None
        assert told.plugin.annotations == ("containerd.io/snapshot/x",)

    run(site, tmp_path, test)


def test_requirements_come_first_and_end_last(site: Site, tmp_path: Path) -> None:
    order = """
import builtins
log = builtins.__dict__.setdefault("_sample_log", [])
class Part:
    def __init__(self, name): self.name = name; log.append(("made", name))
    async def __aenter__(self): log.append(("entered", self.name)); return self
    async def __aexit__(self, *_): log.append(("left", self.name))
"""
    site.plugin("base", "return Part('base')", before=order)
    site.plugin("top", "return Part('top')", before=order, options=", requires=('backends.base',)", kind="services")

    async def test(registry: Registry) -> None:
        await registry.start()

    run(site, tmp_path, test)
    import builtins

    log = builtins.__dict__.pop("_sample_log")
    assert log == [
        ("made", "base"),
        ("entered", "base"),
        ("made", "top"),
        ("entered", "top"),
        ("left", "top"),
        ("left", "base"),
    ]


#: What breaks, and the reason code and a part of the sentence that must come of it.
BROKEN = {
    "import_error": ({"raw": "raise RuntimeError('no good')"}, "import_error", "RuntimeError: no good"),
    "missing_dependency": ({"raw": "import not_there_at_all"}, "missing_dependency", "not_there_at_all"),
    "contract": ({"options": ", contract=9"}, "contract_version", "version 9"),
    "raises": ({"body": "raise ValueError('bad day')"}, "raised", "ValueError: bad day"),
    "hangs": ({"body": "import time; time.sleep(60)"}, "hung", "did not return within 0.5 s"),
    "exits": ({"body": "import sys; sys.exit(3)"}, "raised", "SystemExit"),
    "exits_at_import": ({"raw": "import sys; sys.exit(3)"}, "raised", "SystemExit"),
    "no_plugin": ({"raw": "plugin = 42"}, "not_a_plugin", "int"),
    "wants_missing": ({"options": ", requires=('backends.absent',)"}, "missing_requirement", "backends.absent"),
    "wants_kind": ({"options": ", requires=('wheels',)"}, "missing_requirement", "no kind wheels"),
    "forks_nothing": ({"options": ", forked=('not_there_at_all',)"}, "failed_precondition", "not_there_at_all"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_harms_only_itself(site: Site, tmp_path: Path, name: str) -> None:
    arguments, code, words = BROKEN[name]
    site.config += "plugin_deadline = 0.5\n"
    site.plugin("broken", **arguments)
    site.plugin("good", kind="services")
    site.plugin("dependent", options=", requires=('backends.broken',)")

    async def test(registry: Registry) -> None:
        with pytest.raises(FailedPrecondition, match=r"broken is failed"):
            await registry.require("backends", "broken")
        found = record(registry, "broken")
        assert (found.state, found.code) == ("failed", code)
        assert words in found.reason
        with pytest.raises(FailedPrecondition, match=r"it requires backends\.broken"):
            await registry.require("backends", "dependent")
        await registry.start()
        assert record(registry, "good", "services").state == "ready"

    run(site, tmp_path, test)


def test_a_plugin_that_cannot_run_here_is_skipped(site: Site, tmp_path: Path) -> None:
    site.plugin(
        "picky",
        "raise PluginSkipped('there is no wheel here', 'fit a wheel')",
        before="from intermodal_core.errors import PluginSkipped",
    )

    async def test(registry: Registry) -> None:
        with pytest.raises(FailedPrecondition, match=r"skipped: there is no wheel here; fit a wheel"):
            await registry.require("backends", "picky")
        assert record(registry, "picky").state == "skipped"

    run(site, tmp_path, test)


def test_two_owners_of_a_name_are_both_refused_until_config_picks(site: Site, tmp_path: Path) -> None:
    site.plugin("twin", "return 'one'", distribution="first")
    site.plugin("twin", "return 'two'", distribution="second")

    async def refused(registry: Registry) -> None:
        found = record(registry, "twin")
        assert (found.state, found.code) == ("failed", "two_owners")
        assert "first and second" in found.reason

    run(site, tmp_path, refused)
    site.config += '[backends.twin]\ndistribution = "second"\n'

    async def picked(registry: Registry) -> None:
        assert await registry.require("backends", "twin") == "two"

    run(site, tmp_path, picked)


def test_a_cycle_is_reported_as_its_path(site: Site, tmp_path: Path) -> None:
    site.plugin("a", options=", requires=('backends.b',)")
    site.plugin("b", options=", requires=('backends.c',)")
    site.plugin("c", options=", requires=('backends.a',)")

    async def test(registry: Registry) -> None:
        with pytest.raises(FailedPrecondition):
            await registry.require("backends", "a")
        assert "backends.a -> backends.b -> backends.c -> backends.a" in record(registry, "c").reason
        assert {record(registry, name).state for name in "abc"} == {"failed"}

    run(site, tmp_path, test)


def test_two_loads_that_wait_for_each_other_end(site: Site, tmp_path: Path) -> None:
    site.plugin("left", "import time; time.sleep(0.1)", options=", requires=('backends.right',)")
    site.plugin("right", "import time; time.sleep(0.1)", options=", requires=('backends.left',)")

    async def test(registry: Registry) -> None:
        async with asyncio.timeout(10):
            loads = (registry.require("backends", name) for name in ("left", "right"))
            outcomes = await asyncio.gather(*loads, return_exceptions=True)
        assert all(isinstance(outcome, FailedPrecondition) for outcome in outcomes)

    run(site, tmp_path, test)


def test_a_plugin_that_ended_the_daemon_twice_is_known_next_time(site: Site, tmp_path: Path) -> None:
    """Once may have been anybody's SIGKILL."""
    site.plugin("deadly")
    marker = tmp_path / "state" / "initialising" / "backends.deadly"
    marker.parent.mkdir(parents=True)

    async def once(registry: Registry) -> None:
        await registry.require("backends", "deadly")
        assert not marker.exists()

    marker.write_text("1")
    run(site, tmp_path, once)

    async def twice(registry: Registry) -> None:
        assert record(registry, "deadly").code == "ended_daemon"
        with pytest.raises(FailedPrecondition, match="ended the daemon the last two times"):
            await registry.require("backends", "deadly")

    marker.write_text("2")
    run(site, tmp_path, twice)


def test_a_daemon_that_ends_within_a_plugin_leaves_word(site: Site, tmp_path: Path) -> None:
    site.plugin("deadly", "import os; os._exit(7)")
    for count in ("1", "2"):
        child = os.fork()
        if not child:
            run(site, tmp_path, lambda registry: registry.require("backends", "deadly"))
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert (tmp_path / "state" / "initialising" / "backends.deadly").read_text() == count

    async def third(registry: Registry) -> None:
        assert record(registry, "deadly").code == "ended_daemon"

    run(site, tmp_path, third)


def test_instances_of_one_plugin_with_options_of_their_own(site: Site, tmp_path: Path) -> None:
    site.plugin(
        "colour",
        "return context.config.shade",
        before="import msgspec\nclass Config(msgspec.Struct, forbid_unknown_fields=True):\n    shade: str = 'grey'",
        options=", config=Config",
    )
    site.config += (
        '[backends.red]\nplugin = "colour"\nshade = "scarlet"\n[backends.off]\nplugin = "colour"\nenabled = false\n'
    )

    async def test(registry: Registry) -> None:
        assert await registry.require("backends", "colour") == "grey"
        assert await registry.require("backends", "red") == "scarlet"
        with pytest.raises(FailedPrecondition, match="disabled: switched off"):
            await registry.require("backends", "off")

    run(site, tmp_path, test)


def test_a_mistake_in_a_section_names_its_line(site: Site, tmp_path: Path) -> None:
    site.plugin("strict")
    site.config += "[backends.strict]\nspeeed = 3\n"

    async def test(registry: Registry) -> None:
        with pytest.raises(FailedPrecondition, match=r"config.toml:3: .*speeed"):
            await registry.require("backends", "strict")

    run(site, tmp_path, test)


def test_a_required_plugin_that_is_not_ready_stops_the_start(site: Site, tmp_path: Path) -> None:
    site.plugin("vital", "raise ValueError('gone')")
    site.config += "[backends.vital]\nrequired = true\n"

    async def test(registry: Registry) -> None:
        with pytest.raises(FailedPrecondition, match="gone"):
            await registry.start()

    run(site, tmp_path, test)


LIFE = """
class Life:
    def __init__(self, context):
        self.name = context.name
    async def __aenter__(self):
        return self
    async def __aexit__(self, *_):
        with open({file!r}, "a") as file:
            file.write(self.name + " ")
"""


def test_users_end_before_what_they_use(site: Site, tmp_path: Path) -> None:
    """A backend that was loaded on demand, long after the service that asks for it, ends after that service."""
    before = LIFE.format(file=str(tmp_path / "ends"))
    site.plugin("below", "return Life(context)", before=before)
    site.plugin(
        "serving", "return Life(context)", before=before, kind="services", options=", requires=('backends.below',)"
    )
    site.plugin("late", "return Life(context)", before=before)
    site.plugin("later", "return Life(context)", before=before, options=", requires=('services.serving',)")

    async def test(registry: Registry) -> None:
        await registry.start()
        for name in ("late", "later"):
            await registry.require("backends", name)

    run(site, tmp_path, test)
    assert (tmp_path / "ends").read_text().split() == ["later", "serving", "late", "below"]


def test_of_a_single_kind_one_is_in_use(site: Site, tmp_path: Path) -> None:
    site.kinds = [Kind("backends", single=True, guarded=False)]

    async def none(registry: Registry) -> None:
        with pytest.raises(FailedPrecondition, match="none is installed"):
            await registry.require("backends")

    run(site, tmp_path, none)
    site.plugin("one", "return 1")

    async def one(registry: Registry) -> None:
        assert await registry.require("backends") == 1

    run(site, tmp_path, one)
    site.plugin("two", "return 2")

    async def two(registry: Registry) -> None:
        with pytest.raises(FailedPrecondition, match="one, two are enabled"):
            await registry.require("backends")

    run(site, tmp_path, two)


def test_a_name_that_is_not_there_lists_those_that_are(site: Site, tmp_path: Path) -> None:
    site.plugin("here")

    async def test(registry: Registry) -> None:
        with pytest.raises(NotFound, match=r"no backends.there \(of backends there are: here\)"):
            await registry.require("backends", "there")

    run(site, tmp_path, test)


def test_a_section_for_a_plugin_that_is_not_installed(site: Site, tmp_path: Path) -> None:
    site.plugin("overlay")
    site.config += "[backends.overlya]\n"

    async def test(registry: Registry) -> None:
        with pytest.raises(InvalidArgument, match="overlay"):
            registry.config.check_names(registry.names())

    run(site, tmp_path, test)


def test_an_interface_is_checked(site: Site, tmp_path: Path) -> None:
    site.kinds = [Kind("backends", "intermodal_core.contracts.networks:Network")]
    site.plugin("partial", "class P:\n        def attach(self): ...\n    return P()")

    async def test(registry: Registry) -> None:
        with pytest.raises(FailedPrecondition, match="lacks check, detach, gc"):
            await registry.require("backends", "partial")

    run(site, tmp_path, test)


@pytest.mark.parametrize("how", ["broken", "off"])
def test_a_table_of_a_plugin_that_cannot_be_used(site: Site, tmp_path: Path, how: str) -> None:
    """What it claims is not known, so the mistake says which plugins cannot be asked, and why."""
    site.plugin("claims", raw="raise RuntimeError('no such luck')" if how == "broken" else "")
    site.config += "[theirs]\nx = 1\n"
    if how == "off":
        site.config += "[backends.claims]\nenabled = false\n"

    async def test(registry: Registry) -> None:
        why = "failed: .*no such luck" if how == "broken" else "disabled: switched off in the config"
        with pytest.raises(InvalidArgument, match=f"config.toml:2: .*theirs.*cannot be used: backends.claims is {why}"):
            await registry.start()

    run(site, tmp_path, test)
