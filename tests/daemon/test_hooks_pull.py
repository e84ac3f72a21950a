"""The hook before a pull: what it vetoes is never asked for, and what it rewrites is what comes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import busybox_layout
from tests.harness.registry import push_archive, registry
from tests.harness.site import install

GATE = """
import msgspec
from intermodal_core.errors import PermissionDenied
from intermodal_core.hooks import hookimpl
from intermodal_core.plugin import Plugin

class Gate:
    @hookimpl
    def before_pull(self, pull):
        host, _, path = pull.reference.partition("/")
        if host == "refused.example":
            raise PermissionDenied(f"{{pull.reference}} is refused: nothing comes from {{host}} into {{pull.namespace}}")
        if host == "elsewhere.example":
            return msgspec.structs.replace(pull, reference=f"{served}/{{path}}")

plugin = Plugin(factory=lambda context: Gate())
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    top = tmp_path_factory.mktemp("registry")
    with registry(top / "served") as found:
        push_archive(busybox_layout(top / "busybox.tar").path, f"{found.address}/busybox:1")
        yield found.address


@pytest.fixture
def gated(served: str, tmp_path: Path) -> Iterator[PrivateDaemon]:
    with PrivateDaemon(start=False) as daemon:
        daemon.start(install(tmp_path, "hooks", "gate", GATE.format(served=served)))
        yield daemon


def test_a_veto_is_what_the_client_reads(gated: PrivateDaemon) -> None:
    done = gated.imod("images", "pull", "refused.example/busybox:1")
    assert done.returncode != 0
    assert (
        f"refused.example/busybox:1 is refused: nothing comes from refused.example into {gated.namespace}"
        in done.stderr
    )
    assert "before_pull" in done.stderr
    assert json.loads(gated.imod("images", "ls", "-o", "json", check=True).stdout) == []


def test_what_is_rewritten_is_what_comes(gated: PrivateDaemon, served: str) -> None:
    gated.imod("images", "pull", "elsewhere.example/busybox:1", check=True)
    (image,) = json.loads(gated.imod("images", "ls", "-o", "json", check=True).stdout)
    assert image["name"] == f"{served}/busybox:1"
    assert gated.imod("run", "--rm", f"{served}/busybox:1", "echo", "here", check=True).stdout == "here\n"
