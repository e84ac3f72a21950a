"""A service that is off, and one whose manager is broken: who calls it is told which plugin, why, and where that is written."""

from __future__ import annotations

import grpc
import pytest

from tests.harness.daemon import PrivateDaemon


def unimplemented(daemon: PrivateDaemon, method: str) -> str:
    with grpc.insecure_channel(f"unix:{daemon.address}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(method, bytes, bytes)(b"", timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    return str(caught.value.details())


def test_a_service_that_is_off_is_named_with_its_line() -> None:
    with PrivateDaemon("[services.ttrpc]\nenabled = false\n") as daemon:
        told = unimplemented(daemon, "/runtime.v1.RuntimeService/Version")
        assert "unknown service runtime.v1.RuntimeService" in told
        assert f"services.ttrpc is disabled: switched off in the config ({daemon.config_file}:3)" in told
        assert "set enabled = true in [services.ttrpc]" in told


def test_a_manager_that_is_broken_takes_its_own_services_with_it_alone() -> None:
    with PrivateDaemon("[managers.tasks]\nenabled = false\n") as daemon:
        told = unimplemented(daemon, "/containerd.services.tasks.v1.Tasks/List")
        assert f"managers.tasks is disabled: switched off in the config ({daemon.config_file}:4)" in told
        daemon.ctr("namespaces", "create", "here", check=True)
        assert "here" in daemon.ctr("namespaces", "ls", check=True).stdout
        assert "skip" in next(
            line for line in daemon.ctr("plugins", "ls", check=True).stdout.splitlines() if line.split()[1] == "tasks"
        )
        assert "managers.tasks is disabled" in daemon.imod("ps").stderr
        assert "managers.tasks is disabled" in daemon.ctr("tasks", "ls").stderr


def test_a_required_one_that_is_broken_stops_the_start() -> None:
    with PrivateDaemon("[services.grpc]\nrequired = true\n[metadata.sqlite]\nenabled = false\n", start=False) as daemon:
        daemon.start()  # it serves what it can
        assert "metadata.sqlite" in daemon.imod("plugins", "why", "managers.store", check=True).stdout
    with (
        PrivateDaemon("[managers.store]\nrequired = true\n[metadata.sqlite]\nenabled = false\n", start=False) as daemon,
        pytest.raises(RuntimeError, match=r"managers\.store is failed: it requires metadata"),
    ):
        daemon.start()
