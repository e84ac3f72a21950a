"""The plugin `runsc`: what it makes of its config and of a client's options, and how it finds out what works here."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from intermodal_api.containerd.runtime.runc_options_pb2 import Options as RuncOptions
from intermodal_api.containerd.runtime.runtime_options_pb2 import Options
from intermodal_core.contracts.runtimes import CreateTask, Runtime, TaskRef
from intermodal_core.errors import IntermodalError, InvalidArgument, PluginSkipped
from intermodal_core.spawner import Spawner
from intermodal_core.testing.contexts import context_of
from intermodal_runsc.options import OPTIONS_TYPE, TYPE_URL
from intermodal_runsc.platform import probe
from intermodal_runsc.plugin import Config, plugin

OWN_NETWORK = {"linux": {"namespaces": [{"type": "network", "path": "/run/netns/x"}]}}
NO_NETWORK = {"linux": {"namespaces": [{"type": "network"}]}}


@pytest.fixture(scope="module")
def spawner() -> Iterator[Spawner]:
    spawner = Spawner()
    for module in plugin.forked:
        spawner.preload(module, deadline=30)
    yield spawner
    spawner.close()


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """Runs what it is asked to probe, writes down each call, and fails to create."""
    path = tmp_path / "recorder"
    path.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\ncase "$*" in *" run "*) exit 0;; esac\nexit 1\n')
    path.chmod(0o755)
    return path


def make(tmp_path: Path, spawner: Any, **config: Any) -> Any:
    return plugin.factory(context_of("runtimes", "runsc", msgspec.convert(config, Config), tmp_path, spawner=spawner))


def create_call(tmp_path: Path, spawner: Spawner, request: Any = None, spec: Any = None, **config: Any) -> str:
    """The words of the create command."""
    bundle = tmp_path / "c"
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps(OWN_NETWORK if spec is None else spec))
    runtime = make(tmp_path, spawner, **config)
    (tmp_path / "calls").unlink(missing_ok=True)
    given = CreateTask(str(bundle), options_type=TYPE_URL, options=request.SerializeToString()) if request else None

    async def main() -> None:
        try:
            with pytest.raises(IntermodalError, match="recorder create ended with status 1"):
                await runtime.create(TaskRef("ns", "c"), given or CreateTask(str(bundle)))
        finally:
            await runtime.stop()

    asyncio.run(main())
    return (tmp_path / "calls").read_text().splitlines()[0]


def of_runsc(**flags: object) -> Options:
    lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in flags.items()]
    return Options(type_url=OPTIONS_TYPE, config_body="\n".join(["[runsc_config]", *lines]).encode())


@pytest.mark.skipif(shutil.which("runsc") is None, reason="gVisor's runsc is not installed")
def test_info_names_the_binary_its_version_and_the_platform(tmp_path: Path, spawner: Spawner) -> None:
    runtime = make(tmp_path, spawner)
    assert isinstance(runtime, Runtime)
    info = asyncio.run(runtime.info())
    assert info.binary == shutil.which("runsc")
    assert info.version.startswith("runsc version")
    assert info.annotations["platform"] in ("systrap", "ptrace", "kvm")
    for name in {"systrap", "ptrace"} - {info.annotations["platform"]}:
        if f"platform {name} fails" in info.annotations:
            assert name in info.annotations[f"platform {name} fails"]


def test_without_a_binary_it_is_skipped(tmp_path: Path, spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/one:/two")
    with pytest.raises(PluginSkipped, match=r"/one/runsc, /two/runsc") as skipped:
        make(tmp_path, spawner)
    assert "runsc" in skipped.value.remedy


def test_where_no_platform_works_it_is_skipped_and_says_why(tmp_path: Path, spawner: Spawner) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such thing as $3 >&2; exit 1\n")
    broken.chmod(0o755)
    with pytest.raises(PluginSkipped, match=r"systrap: .*no such thing as --platform=systrap; .*=ptrace; .*=kvm"):
        make(tmp_path, spawner, binary=str(broken))


def test_a_platform_that_hangs_is_given_up(tmp_path: Path, spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intermodal_runsc.platform._WITHIN", 0.5)
    hangs = tmp_path / "hangs"
    hangs.write_text('#!/bin/sh\ncase "$*" in *systrap*" run "*) exec sleep 60;; esac\nexit 0\n')
    hangs.chmod(0o755)
    found = probe(spawner, str(hangs), tmp_path / "probe", "auto")
    assert (found.platform, found.network) == ("ptrace", True)
    assert "0.5 s" in found.failures["platform systrap"]


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({}, "--platform=systrap"),  # the first that the recorder says works
        ({}, "--network=sandbox"),
        ({}, "--overlay2=none"),
        ({}, "--file-access=exclusive"),
        ({}, "--root {state}/runc/ns"),
        ({"root": "/elsewhere"}, "--root /elsewhere/ns"),
        ({"platform": "kvm"}, "--platform=kvm"),
        ({"network": "none"}, "--network=none"),
        ({"network": "host"}, "--network=host"),
        ({"overlay": "root:memory"}, "--overlay2=root:memory"),
        ({"file_access": "shared"}, "--file-access=shared"),
        ({"host_uds": "open"}, "--host-uds=open"),
        ({"oci_seccomp": True}, "--oci-seccomp=true"),
        ({"ignore_cgroups": True}, "--ignore-cgroups=true"),
        ({"systemd_cgroup": True}, "--systemd-cgroup"),
        ({"debug_log": "/tmp/log/"}, "--debug-log=/tmp/log/"),
        ({"debug_log": "/tmp/log/"}, "--debug=true"),
        ({"flags": {"strace": "true"}}, "--strace=true"),
    ],
)
def test_options_reach_the_runtime(
    tmp_path: Path, spawner: Spawner, recorder: Path, config: dict[str, Any], word: str
) -> None:
    call = create_call(tmp_path, spawner, binary=str(recorder), **config)
    assert f"{word.format(state=tmp_path / 'state')} " in call


def test_every_option_is_tested() -> None:
    tested = {name for mark in test_options_reach_the_runtime.pytestmark for case in mark.args[1] for name in case[0]}
    assert tested | {"binary"} == set(Config.__struct_fields__)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"platform": "kvm"}, "--platform=kvm"),
        ({"network": "none"}, "--network=none"),
        ({"overlay2": "all:memory"}, "--overlay2=all:memory"),
        ({"file-access": "shared"}, "--file-access=shared"),
        ({"ignore-cgroups": "true"}, "--ignore-cgroups=true"),
        ({"systemd-cgroup": True}, "--systemd-cgroup"),
        ({"debug": "true"}, "--debug=true"),
        ({"num-network-channels": 2}, "--num-network-channels=2"),
        ({"buffer-pooling": False}, "--buffer-pooling=false"),
    ],
)
def test_a_clients_options_reach_the_runtime(
    tmp_path: Path, spawner: Spawner, recorder: Path, flags: dict[str, object], word: str
) -> None:
    assert f"{word} " in create_call(tmp_path, spawner, of_runsc(**flags), binary=str(recorder))


def test_a_clients_file_of_options(tmp_path: Path, spawner: Spawner, recorder: Path) -> None:
    path = tmp_path / "runsc.toml"
    path.write_text(f'binary_name = "{recorder}"\nroot = "/asked"\n[runsc_config]\nplatform = "kvm"\n')
    call = create_call(tmp_path, spawner, Options(type_url=OPTIONS_TYPE, config_path=str(path)), binary=str(recorder))
    assert "--root /asked/ns " in call
    assert "--platform=kvm " in call


@pytest.mark.parametrize(
    ("type_url", "options", "says"),
    [
        (TYPE_URL, of_runsc(platform="xen"), "xen"),
        (TYPE_URL, of_runsc(root="/"), "root cannot be set for one container"),
        (TYPE_URL, Options(config_body=b"platfrom = 'kvm'"), "platfrom"),
        (TYPE_URL, Options(config_body=b"=="), "config_body"),
        (TYPE_URL, Options(type_url="io.containerd.kata.v2.options"), "kata"),
        (RuncOptions.DESCRIPTOR.full_name, RuncOptions(binary_name="crun"), "containerd.runc.v1.Options"),
    ],
)
def test_options_that_are_none_of_runscs(
    tmp_path: Path, spawner: Spawner, recorder: Path, type_url: str, options: Any, says: str
) -> None:
    runtime = make(tmp_path, spawner, binary=str(recorder))
    request = CreateTask(str(tmp_path), options_type=type_url, options=options.SerializeToString())
    with pytest.raises(InvalidArgument, match=says):
        asyncio.run(runtime.create(TaskRef("ns", "c"), request))


def test_the_hosts_network(tmp_path: Path, spawner: Spawner, recorder: Path) -> None:
    """A sandbox's stack would take the host's addresses."""
    assert "--network=host " in create_call(tmp_path, spawner, spec={}, binary=str(recorder))
    shutil.rmtree(tmp_path / "c")
    assert "--network=none " in create_call(tmp_path, spawner, spec=NO_NETWORK, binary=str(recorder))
    (tmp_path / "c" / "config.json").write_text("{}")
    runtime = make(tmp_path, spawner, binary=str(recorder), network="sandbox")
    with pytest.raises(InvalidArgument, match="host's network"):
        asyncio.run(runtime.create(TaskRef("ns", "c"), CreateTask(str(tmp_path / "c"))))


def test_a_plain_container_is_annotated_as_a_sandbox(tmp_path: Path, spawner: Spawner, recorder: Path) -> None:
    create_call(tmp_path, spawner, spec={"annotations": {"mine": "x"}}, binary=str(recorder))
    written = json.loads((tmp_path / "c" / "config.json").read_text())
    assert written["annotations"] == {
        "mine": "x",
        "io.kubernetes.cri.container-type": "sandbox",
        "io.kubernetes.cri.sandbox-id": "c",
    }


def test_a_pods_container_keeps_its_annotations(tmp_path: Path, spawner: Spawner, recorder: Path) -> None:
    of_pod = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": "pod"}
    create_call(tmp_path, spawner, spec={"annotations": of_pod}, binary=str(recorder))
    assert json.loads((tmp_path / "c" / "config.json").read_text())["annotations"] == of_pod
