"""A client for every kind of daemon that it must work with."""

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from intermodal import Client, FailedPrecondition, NotFound

from tests.harness.containerd import containerd
from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built


@contextmanager
def intermodald() -> Iterator[str]:
    """The address of our own daemon, for the block."""
    with PrivateDaemon() as daemon:
        yield daemon.address


DAEMONS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "containerd": containerd,
    "intermodald": intermodald,
}


@pytest.fixture(scope="session", params=DAEMONS)
def daemon_address(request: pytest.FixtureRequest) -> Iterator[str]:
    """The socket of a daemon of each kind."""
    with DAEMONS[request.param]() as address:
        yield address


@pytest.fixture
def client(daemon_address: str, tmp_path: Path) -> Iterator[Client]:
    """A client in a namespace of its own, which is empty again afterwards; so is its directory of streams."""
    namespace = f"test-{secrets.token_hex(4)}"
    directory = tmp_path / "io"
    with Client(daemon_address, namespace, timeout=30, directory=str(directory)) as client:
        yield client
    # Through a fresh client: the test may have closed or broken its own.
    with Client(daemon_address, namespace, timeout=30, directory=str(directory)) as cleaner:
        for container in cleaner.containers.list():
            container.delete(force=True)
        for image in cleaner.images.list():
            image.delete(sync=True)
        try:
            cleaner.namespaces.delete(namespace)
        except (FailedPrecondition, NotFound):
            pass  # nothing was made in it; or there is what only the collector removes
    assert list(directory.glob("*")) == []
    _remove_cgroups(namespace)


@pytest.fixture
def ready(client: Client, busybox: Built) -> Client:
    """The client, with busybox:latest imported."""
    client.images.import_(busybox.path)
    return client


@pytest.fixture
def in_another_namespace(ready: Client) -> Iterator[Client]:
    """A second client in a namespace without anything in it."""
    with ready.with_namespace(f"{ready.namespace}-b") as other:
        yield other


def _remove_cgroups(namespace: str) -> None:
    """The runtime removes a container's cgroup but not the namespace's that it was in. One with a container fails here.

    The runtime may close its books shortly after the answer to the client's delete.
    """
    top = Path("/sys/fs/cgroup")
    deadline = time.monotonic() + 5
    for parent in (top, *top.iterdir()):
        while (parent / namespace).is_dir():
            try:
                (parent / namespace).rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
