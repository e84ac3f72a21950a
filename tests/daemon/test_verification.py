"""Verification: what enforce, audit and off do with signed and unsigned images of a real registry."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.spawner import Spawner
from intermodal_oci.model import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from intermodal_registry.settings import Settings
from intermodal_registry.source import RegistrySource

from tests.harness.daemon import PrivateDaemon
from tests.harness.images import Built, busybox_layout
from tests.harness.registry import Registry, push_archive, registry
from tests.harness.signing import (
    ARTIFACT,
    SIMPLE_SIGNING,
    descriptor,
    new_key,
    payload_of,
    public,
    sign,
    signature_manifest,
)
from tests.harness.world import settled

KEY, OTHER = new_key("ecdsa"), new_key("ed25519")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("served") / "registry") as served:
        yield served


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return busybox_layout(tmp_path_factory.mktemp("image") / "busybox.tar")


def push_signature(name: str, key: Any, digest: str, by: str) -> None:
    """Put a signature of an image beside it."""
    payload = payload_of(digest, name)
    target = descriptor(OCI_MANIFEST, b"")
    subject = type(target)(OCI_MANIFEST, digest, 1) if by == "referrer" else None
    manifest = signature_manifest(payload, sign(key, payload), subject)
    repository = name.rpartition(":")[0]
    where = (
        f"{repository}:{digest.replace(':', '-')}.sig"
        if by == "tag"
        else f"{repository}@{descriptor('', manifest).digest}"
    )

    async def push() -> None:
        spawner = Spawner()
        try:
            async with RegistrySource(Settings(), spawner) as source:

                async def put(media_type: str, data: bytes, name: str = where) -> None:
                    file = os.memfd_create("blob")
                    try:
                        os.write(file, data)
                        await source.push(name, descriptor(media_type, data), file)
                    finally:
                        os.close(file)

                await put(SIMPLE_SIGNING, payload)
                await put(OCI_CONFIG, b"{}")
                await put(OCI_MANIFEST, manifest)
                if by == "referrer":  # this registry has no API for them: under the tag that stands in for it
                    listed = {
                        "mediaType": OCI_MANIFEST,
                        "digest": descriptor("", manifest).digest,
                        "size": len(manifest),
                        "artifactType": ARTIFACT,
                    }
                    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed]}
                    await put(OCI_INDEX, json.dumps(index).encode(), f"{repository}:{digest.replace(':', '-')}")
        finally:
            spawner.close()

    asyncio.run(push())


@pytest.fixture(scope="module")
def names(served: Registry, built: Built) -> dict[str, str]:
    """The same image: signed by its tag or by a referrer, by a stranger, and not at all."""
    found = {}
    for what, key, by in (
        ("tag", KEY, "tag"),
        ("referrer", KEY, "referrer"),
        ("stranger", OTHER, "tag"),
        ("unsigned", None, ""),
    ):
        found[what] = f"{served.address}/{what}/image:1"
        push_archive(built.path, found[what])
        if key is not None:
            push_signature(found[what], key, built.manifest, by)
    return found


def config(tmp_path: Path, mode: str = "enforce", more: str = "") -> str:
    key = public(KEY, tmp_path / "key.pub")
    return f'[defaults]\nverification = "{mode}"\n[verifiers.cosign]\nkeys = ["{key}"]\n{more}\n'


def test_enforce(names: dict[str, str], tmp_path: Path) -> None:
    """A signed image is taken, an unsigned one is not: nothing of it is fetched, and the reason is told."""
    with PrivateDaemon(config(tmp_path)) as daemon:
        for what in ("tag", "referrer"):
            done = daemon.imod("images", "pull", names[what], check=True)
            assert f"verification is enforce: cosign: signed by the key {tmp_path}/key.pub" in done.stderr
        for what, said in (("unsigned", "has no cosign signature"), ("stranger", "a signature of another key")):
            refused = daemon.imod("-n", "refused", "images", "pull", names[what])
            assert (refused.returncode, refused.stderr.count("\n")) == (125, 1)
            assert said in refused.stderr
            assert "verification is enforced ([defaults] verification of" in refused.stderr
        assert daemon.ctr("--namespace", "refused", "content", "ls", "-q", check=True).stdout == ""
        settled(daemon)
        rows = {row["name"]: row for row in json.loads(daemon.imod("images", "ls", "-o", "json", check=True).stdout)}
        assert rows[names["tag"]]["labels"]["intermodal.io/verification"] == "enforce: cosign accepts"
        log = daemon.tail(200)
        assert f"verification (enforce) of {names['unsigned']}: cosign refuses" in log


def test_each_decision_is_an_event(names: dict[str, str], tmp_path: Path) -> None:
    with PrivateDaemon(config(tmp_path)) as daemon:
        daemon.imod("images", "pull", names["tag"], check=True)
        daemon.imod("images", "pull", names["unsigned"])
        found = _replayed(daemon)
        fields = [each["fields"] for each in found]
        assert [each.get("admitted", False) for each in fields] == [True, False]
        assert fields[0]["name"] == names["tag"]
        assert fields[1]["verdicts"][0]["verifier"] == "cosign"


def _replayed(daemon: PrivateDaemon) -> list[dict[str, Any]]:
    """Events since the beginning, over the control socket, until there are two of ours."""
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(daemon.address + ".control")
        params = {"since": 0, "filters": ['topic=="/images/verify"'], "all_namespaces": True}
        sock.sendall(json.dumps({"method": "events.subscribe", "params": params}).encode() + b"\n")
        found: list[dict[str, Any]] = []
        with sock.makefile() as lines:
            while len(found) < 2:
                line = json.loads(lines.readline())
                if "event" in line and "topic" in line["event"]:
                    found.append(line["event"])
        return found


def test_audit_and_off(names: dict[str, str], tmp_path: Path) -> None:
    with PrivateDaemon(config(tmp_path, "audit")) as daemon:
        done = daemon.imod("images", "pull", names["unsigned"], check=True)
        assert "verification is audit: cosign: " in done.stderr
        assert "has no cosign signature" in done.stderr
        (row,) = json.loads(daemon.imod("images", "ls", "-o", "json", check=True).stdout)
        assert row["labels"]["intermodal.io/verification"] == "audit: cosign refuses"
    with PrivateDaemon(config(tmp_path, "off")) as daemon:
        done = daemon.imod("images", "pull", names["unsigned"], check=True)
        assert "verification is off\n" in done.stderr


def test_enforce_without_a_verifier_refuses_all(names: dict[str, str]) -> None:
    with PrivateDaemon('[defaults]\nverification = "enforce"') as daemon:
        refused = daemon.imod("images", "pull", names["tag"])
        assert refused.returncode == 125
        assert "no verifier is in use" in refused.stderr
        assert "no public key is configured" in refused.stderr


def test_rules_by_image(names: dict[str, str], tmp_path: Path) -> None:
    """The operator's rules say for which images it is enforced."""
    rule = '[[rules]]\nimage = "*/unsigned/*"\nverification = "enforce"'
    with PrivateDaemon(config(tmp_path, "off", rule)) as daemon:
        assert "the rule 1 of" in daemon.imod("images", "pull", names["unsigned"]).stderr
        daemon.imod("images", "pull", names["stranger"], check=True)


def test_a_program_says_no(names: dict[str, str], tmp_path: Path) -> None:
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "no").write_text("#!/bin/sh\necho not on a Sunday\nexit 1\n")
    (directory / "no").chmod(0o755)
    more = f'[verifiers.bindir]\nbin_dir = "{directory}"'
    with PrivateDaemon(config(tmp_path, "enforce", more)) as daemon:
        refused = daemon.imod("images", "pull", names["tag"])
        assert "bindir: no: not on a Sunday" in refused.stderr
        (directory / "no").write_text("#!/bin/sh\necho it may be\n")
        daemon.imod("images", "pull", names["tag"], check=True)


def test_verified_again_at_run(names: dict[str, str], tmp_path: Path) -> None:
    """An image that came in by another door is refused when it is to be run, where that is wanted."""
    more = "[managers.images]\nverify_at_run = true"
    with PrivateDaemon(config(tmp_path, "enforce", more)) as daemon:
        daemon.imod("images", "pull", names["tag"], check=True)
        daemon.imod("images", "tag", names["tag"], names["unsigned"], check=True)
        assert daemon.imod("run", "--rm", names["tag"], "echo", "yes", check=True).stdout == "yes\n"
        refused = daemon.imod("run", "--rm", names["unsigned"], "true")
        assert "has no cosign signature" in refused.stderr
        told = daemon.imod("images", "verify", names["tag"], check=True)
        assert "cosign accepts: signed by the key" in told.stdout
