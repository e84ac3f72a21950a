"""Credentials: bound to a host, from the call, config.json, or a helper."""

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.contracts.image_sources import Access
from intermodal_core.errors import InvalidArgument, PermissionDenied
from intermodal_core.spawner import Spawner
from intermodal_registry import challenge
from intermodal_registry.credentials import NONE, Credentials, Found


def find(path: Path, spawner: Spawner, host: str, domain: str = "", access: Access = Access()) -> Found:  # noqa: B008
    return asyncio.run(Credentials([path.parent / "none", path], spawner).find(host, domain or host, access))


def written(tmp_path: Path, **document: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(document))
    return path


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_of_one_host_alone(tmp_path: Path, spawner: Spawner) -> None:
    path = written(
        tmp_path, auths={"a.example": {"auth": encoded("u:p:q")}, "https://b.example/v1/": {"identitytoken": "t"}}
    )
    assert find(path, spawner, "a.example") == Found("u", "p:q", "", str(path))
    assert find(path, spawner, "b.example").token == "t"
    for other in ("a.example:5000", "c.a.example", "example", "a.example.org"):
        assert find(path, spawner, other) == NONE


def test_the_hub_has_names_of_its_own(tmp_path: Path, spawner: Spawner) -> None:
    path = written(tmp_path, auths={"https://index.docker.io/v1/": {"username": "u", "password": "p"}})
    assert find(path, spawner, "index.docker.io", "docker.io").username == "u"


def test_what_the_caller_gives_is_for_the_names_own_host(tmp_path: Path, spawner: Spawner) -> None:
    path = written(tmp_path)
    access = Access(username="u", password="p")
    assert find(path, spawner, "a.example", "a.example", access).password == "p"
    assert find(path, spawner, "index.docker.io", "docker.io", access).password == "p"
    assert find(path, spawner, "mirror.example", "a.example", access) == NONE


def test_a_file_that_is_wrong_is_named(tmp_path: Path, spawner: Spawner) -> None:
    path = tmp_path / "config.json"
    for text, said in [("{", "not valid JSON"), ("[]", "JSON object"), ('{"auths": {"a": {"auth": "?"}}}', "base64")]:
        path.write_text(text)
        with pytest.raises(InvalidArgument, match=said) as caught:
            find(path, spawner, "a")
        assert str(path) in str(caught.value)


@pytest.fixture
def helper(tmp_path: Path, spawner: Spawner, monkeypatch: pytest.MonkeyPatch) -> str:
    """A helper on the PATH of a spawner, which tells what it was asked and answers for a.example."""
    program = tmp_path / "docker-credential-intermodaltest"
    program.write_text(
        "#!/bin/sh\nread host\n"
        'case "$1 $host" in\n'
        """"get a.example") echo '{"ServerURL": "a.example", "Username": "u", "Secret": "s"}';;\n"""
        """"get t.example") echo '{"ServerURL": "t.example", "Username": "<token>", "Secret": "s"}';;\n"""
        """"get bad.example") echo nothing;;\n"""
        '"get n.example") echo "credentials not found in native keychain"; exit 1;;\n'
        '*) echo "the keychain is locked" >&2; exit 1;;\nesac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return "intermodaltest"


def test_helpers(tmp_path: Path, helper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spawner = Spawner()  # with the PATH that has the helper
    try:
        path = written(tmp_path, credsStore=helper, auths={"n.example": {"auth": encoded("u:p")}})
        assert find(path, spawner, "a.example") == Found("u", "s", "", f"docker-credential-{helper}")
        assert find(path, spawner, "t.example").token == "s"
        assert find(path, spawner, "n.example").password == "p", "what the helper has not is looked for in the file"
        with pytest.raises(PermissionDenied, match="the keychain is locked"):
            find(path, spawner, "locked.example")
        with pytest.raises(PermissionDenied, match="answers no credentials"):
            find(path, spawner, "bad.example")
        path = written(tmp_path, credHelpers={"a.example": helper})
        assert find(path, spawner, "a.example").password == "s"
        assert find(path, spawner, "b.example") == NONE
        for name, said in [("nosuch", "cannot be used"), ("../evil", "can be no program's name")]:
            with pytest.raises((PermissionDenied, InvalidArgument), match=said):
                find(written(tmp_path, credsStore=name), spawner, "a.example")
    finally:
        spawner.close()


def test_challenges() -> None:
    found = challenge.parse(
        [
            'Bearer realm="https://a.example/t",service="s x",scope="repository:a/b:pull,push"',
            'Basic realm="q\\"uoted", Negotiate',
        ]
    )
    assert [each.scheme for each in found] == ["bearer", "basic", "negotiate"]
    assert found[0].parameters == {
        "realm": "https://a.example/t",
        "service": "s x",
        "scope": "repository:a/b:pull,push",
    }
    assert found[1].parameters == {"realm": 'q"uoted'}
    assert challenge.parse(["", "=", "Bearer", ","])[0] == ("bearer", {})
