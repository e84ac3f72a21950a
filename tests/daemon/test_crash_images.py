"""The daemon is killed at every step of a pull and of a commit; the next one has nothing half made, and does it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.test_crash import Scenario, every_step, imod, killed_at, mortal
from tests.harness.images import Built, Entry, layer_tar, write_image
from tests.harness.mortal import Mortal
from tests.harness.registry import push_archive, registry

IMAGES = 60


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with images of their own for each k: a layer that is new each time between two that are not."""
    top = tmp_path_factory.mktemp("registry")
    with registry(top / "served") as served:
        for k in range(1, IMAGES):
            layers = [
                layer_tar([Entry(name, data)])
                for name, data in (("a", b"a"), ("b/c", str(k).encode()), ("d/.wh.e", b""))
            ]
            built = write_image(top / "image.tar", layers)
            push_archive(built.path, f"{served.address}/image:{k}")
        yield served.address


def pulls(address: str) -> Scenario:
    """The image is there whole or not at all, and can be pulled; it can be unpacked for another snapshotter, too."""

    def command(daemon: Mortal, k: int) -> object:
        return imod("images", "pull", f"{address}/image:{k % IMAGES or 1}")(daemon, k)

    def after(daemon: Mortal, k: int) -> None:
        name = f"{address}/image:{k % IMAGES or 1}"
        daemon.imod("images", "pull", name, check=True)
        daemon.imod("images", "pull", "--snapshotter", "native", name, check=True)
        daemon.imod("images", "rm", name, check=True)
        daemon.imod("gc", check=True)

    return Scenario("pull", command, after)  # type: ignore[arg-type]


def changed(daemon: Mortal, k: int) -> None:
    if not daemon.imod("ps", "-a", "-q", check=True).stdout:
        script = "echo new > /new; rm /etc/group"
        daemon.imod("run", "--name", "c", "--net", "none", "busybox", "sh", "-c", script, check=True)


def committed(daemon: Mortal, k: int) -> None:
    daemon.imod("commit", "c", "made:1", check=True)
    look = "cat /new; test ! -e /etc/group"
    done = daemon.imod("run", "--rm", "--net", "none", "made:1", "sh", "-c", look, check=True)
    assert done.stdout == "new\n"
    daemon.imod("images", "rm", "made:1", check=True)
    daemon.imod("gc", check=True)


COMMIT = Scenario("commit", imod("commit", "c", "made:1"), committed, changed)


@pytest.mark.parametrize("name", ["pull", "commit"])
def test_killed_at_some_steps(busybox: Built, address: str, name: str) -> None:
    scenario = pulls(address) if name == "pull" else COMMIT
    with mortal(busybox) as daemon:
        steps = [killed_at(daemon, scenario, k) for k in (2, 6, 13)]
    assert steps[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pull", "commit"])
def test_killed_at_every_step(busybox: Built, address: str, name: str, tmp_path: Path) -> None:
    assert every_step(pulls(address) if name == "pull" else COMMIT, busybox, fine=False)
