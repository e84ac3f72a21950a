"""Hooks in the life of real containers: which are called, when, with what, and what their failures do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import NAME, busybox_layout
from tests.harness.site import install
from tests.harness.waiting import until

RECORDER = """
import json, os
from intermodal_core.hooks import hookimpl
from intermodal_core.plugin import Plugin
import msgspec

class Recorder:
    def __init__(self, path):
        self.path = path
        self.denied = os.path.join(path, "denied")

    def note(self, hook, **what):
        line = json.dumps({"hook": hook, **json.loads(msgspec.json.encode(what))}) + "\\n"
        with open(os.path.join(self.path, "heard"), "a") as file:
            file.write(line)
        if os.path.exists(self.denied) and hook in open(self.denied).read().split():
            raise PermissionError(1, f"{hook} is not allowed today")

    @hookimpl
    def before_create(self, container): self.note("before_create", container=container)
    @hookimpl
    def after_create(self, container): self.note("after_create", container=container)
    @hookimpl
    def before_attach(self, container, network): self.note("before_attach", network=network)
    @hookimpl
    def after_attach(self, container, network): self.note("after_attach", network=network)
    @hookimpl
    def adjust_spec(self, spec, container):
        self.note("adjust_spec", container=container)
        spec["process"]["env"].append(f"ADJUSTED={container.id}")
        return spec
    @hookimpl
    def before_start(self, container): self.note("before_start", container=container)
    @hookimpl
    def after_start(self, container, pid): self.note("after_start", pid=pid)
    @hookimpl
    def before_stop(self, container, signal): self.note("before_stop", signal=signal)
    @hookimpl
    def after_stop(self, container, status): self.note("after_stop", container=container, status=status)
    @hookimpl
    def synchronize(self, containers): self.note("synchronize", ids=[each.id for each in containers])
    @hookimpl
    def plugin_changed(self, kind, name, state): self.note("plugin_changed", plugin=f"{kind}.{name}", state=state)

plugin = Plugin(factory=lambda context: Recorder(str(context.root_dir())))
"""


class Hooked:
    """A daemon with the recorder installed, and what it heard."""

    def __init__(self, daemon: PrivateDaemon, env: dict[str, str]) -> None:
        self.daemon = daemon
        self.env = env
        self._root = daemon.root / "hooks/recorder"

    def heard(self) -> list[dict[str, Any]]:
        file = self._root / "heard"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def named(self, *hooks: str) -> list[dict[str, Any]]:
        return [line for line in self.heard() if line["hook"] in hooks]

    def life(self) -> list[str]:
        return [line["hook"] for line in self.heard() if line["hook"] not in ("plugin_changed", "synchronize")]

    def forget(self) -> None:
        (self._root / "heard").unlink(missing_ok=True)

    def deny(self, *hooks: str) -> None:
        (self._root / "denied").write_text(" ".join(hooks))


@contextmanager
def _hooked(directory: Path) -> Iterator[Hooked]:
    env = install(directory, "hooks", "recorder", RECORDER)
    archive = busybox_layout(directory / "busybox.tar")
    with PrivateDaemon(start=False) as daemon:
        daemon.start(env)
        daemon.imod("images", "import", str(archive.path), check=True)
        yield Hooked(daemon, env)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hooked]:
    with _hooked(tmp_path_factory.mktemp("site")) as hooked:
        yield hooked


@pytest.fixture
def hooked(module: Hooked) -> Iterator[Hooked]:
    module.forget()
    module.deny()
    yield module
    module.deny()
    names = module.daemon.imod("ps", "-a", "-q", check=True).stdout.split()
    if names:
        module.daemon.imod("rm", "-f", *names, check=True)


LIFE = ["before_create", "after_create", "before_attach", "after_attach", "adjust_spec", "before_start", "after_start"]


def test_a_whole_life_of_a_container_by_imod(hooked: Hooked) -> None:
    done = hooked.daemon.imod("run", "--name", "one", "--net", "none", "busybox", "sh", "-c", "echo $ADJUSTED; exit 3")
    assert (done.returncode, done.stdout) == (3, "one\n")
    until(lambda: "after_stop" in hooked.life())
    assert hooked.life() == [*LIFE, "after_stop"]
    [created] = hooked.named("after_create")
    assert created["container"] == {
        "namespace": hooked.daemon.namespace,
        "id": "one",
        "image": NAME,
        "labels": {},
        "runtime": "runc",
        "snapshotter": "overlayfs",
    }
    assert hooked.named("after_attach")[0]["network"]["network"] == "none"
    assert hooked.named("after_stop")[0]["status"] == 3


def test_the_record_keeps_the_clients_spec(hooked: Hooked) -> None:
    hooked.daemon.imod("create", "--name", "kept", "--net", "none", "busybox", "true", check=True)
    [inspected] = json.loads(hooked.daemon.imod("inspect", "kept", check=True).stdout)
    assert "ADJUSTED" not in json.dumps(inspected)


def test_stock_ctr_takes_the_same_road(hooked: Hooked) -> None:
    done = hooked.daemon.ctr("run", "--rm", NAME, "two", "sh", "-c", "echo $ADJUSTED")
    assert (done.returncode, done.stdout) == (0, "two\n"), done.stderr
    assert [hook for hook in hooked.life() if hook != "after_stop"] == [hook for hook in LIFE if "attach" not in hook]
    until(lambda: "after_stop" in hooked.life())


def test_what_ends_a_container_is_announced(hooked: Hooked) -> None:
    hooked.daemon.imod("run", "-d", "--name", "long", "--net", "none", "busybox", "sleep", "1000", check=True)
    hooked.daemon.imod("kill", "-s", "USR1", "long", check=True)
    assert hooked.named("before_stop") == []
    hooked.daemon.imod("stop", "-t", "0", "long", check=True)
    assert [line["signal"] for line in hooked.named("before_stop")] == [15, 9]
    until(lambda: bool(hooked.named("after_stop")))


@pytest.mark.parametrize("hook", ["before_create", "before_attach", "adjust_spec", "before_start"])
def test_a_denial_refuses_the_operation_and_leaves_nothing(hooked: Hooked, hook: str) -> None:
    hooked.deny(hook)
    done = hooked.daemon.imod("run", "--name", "three", "--net", "none", "busybox", "true")
    assert done.returncode == 125
    assert f"hook {hook} of hooks.recorder" in done.stderr
    assert "not allowed today" in done.stderr
    assert hooked.daemon.imod("ps", "-a", "-q", check=True).stdout == ""
    hooked.deny()
    assert hooked.daemon.imod("run", "--rm", "--name", "three", "--net", "none", "busybox", "true").returncode == 0


@pytest.mark.parametrize("hook", ["after_create", "after_attach", "after_start", "before_stop", "after_stop"])
def test_what_comes_after_cannot_deny(hooked: Hooked, hook: str) -> None:
    hooked.deny(hook)
    hooked.daemon.imod("run", "-d", "--name", "four", "--net", "none", "busybox", "sleep", "1000", check=True)
    hooked.daemon.imod("stop", "-t", "0", "four", check=True)
    until(lambda: bool(hooked.named("after_stop")))
    assert f"hook {hook} of hooks.recorder" in hooked.daemon.log.read_text()


def test_at_a_new_start_a_plugin_is_told_of_what_runs(tmp_path: Path) -> None:
    with _hooked(tmp_path) as hooked:
        daemon = hooked.daemon
        daemon.imod("run", "-d", "--name", "lasting", "--net", "none", "busybox", "sleep", "1000", check=True)
        daemon.kill9()
        daemon.start(hooked.env)
        until(lambda: any(line["ids"] == ["lasting"] for line in hooked.named("synchronize")))
        states = {line["plugin"]: line["state"] for line in hooked.named("plugin_changed")}
        assert states["services.grpc"] == "ready"
        daemon.imod("rm", "-f", "lasting", check=True)


REQUIRED = """
[hooks.guard]
plugin = "{plugin}"
required = true
{guards}
"""


@pytest.mark.parametrize("plugin", ["absent", "broken"])
def test_required_hooks_that_cannot_be_had_refuse_what_they_guard(
    plugin: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    env = install(tmp_path, "hooks", "broken", "raise RuntimeError('no licence')\n")
    archive = busybox_layout(tmp_path_factory.mktemp("image") / "busybox.tar")
    config = REQUIRED.format(plugin=plugin, guards="")
    with PrivateDaemon(config, arguments=["--permissive"], start=False) as daemon:
        daemon.start(env)
        daemon.imod("images", "import", str(archive.path), check=True)
        done = daemon.imod("run", "--rm", "--net", "none", "busybox", "true")
        assert done.returncode == 125
        assert "before_create is refused: the config requires hooks.guard" in done.stderr
        assert daemon.imod("ps", "-a", "-q", check=True).stdout == ""


def test_guards_name_the_hooks_that_are_meant(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    archive = busybox_layout(tmp_path_factory.mktemp("image") / "busybox.tar")
    config = REQUIRED.format(plugin="absent", guards='guards = ["before_start"]')
    with PrivateDaemon(config, arguments=["--permissive"]) as daemon:
        daemon.imod("images", "import", str(archive.path), check=True)
        daemon.imod("create", "--name", "made", "--net", "none", "busybox", "true", check=True)
        done = daemon.imod("start", "made")
        assert "before_start is refused: the config requires hooks.guard" in done.stderr
        daemon.imod("rm", "made", check=True)
