"""`certs.d`: which servers, in which order, trusted how."""

from pathlib import Path

import pytest
from intermodal_core.contracts.image_sources import Access
from intermodal_core.errors import InvalidArgument
from intermodal_registry.hosts import is_local, servers_of


def write(top: Path, host: str, text: str) -> Path:
    directory = top / host
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(text)
    return directory


def urls(top: Path, domain: str, access: Access = Access()) -> list[str]:  # noqa: B008 - frozen
    return [server.url for server in servers_of(domain, [top / "none", top], access)]


def test_without_a_file(tmp_path: Path) -> None:
    assert urls(tmp_path, "registry.example") == ["https://registry.example/v2"]
    assert urls(tmp_path, "registry.example:5000") == ["https://registry.example:5000/v2"]
    assert urls(tmp_path, "docker.io") == ["https://index.docker.io/v2"]
    assert urls(tmp_path, "localhost:5000") == ["http://localhost:5000/v2"]
    assert urls(tmp_path, "127.0.0.1:5000") == ["http://127.0.0.1:5000/v2"]
    assert urls(tmp_path, "[::1]:5000") == ["http://[::1]:5000/v2"]
    assert urls(tmp_path, "registry.example", Access(plain_http=True)) == ["http://registry.example/v2"]
    assert not is_local("127.example.com")


def test_mirrors_come_first_in_their_order(tmp_path: Path) -> None:
    directory = write(
        tmp_path,
        "docker.io",
        """
server = "https://docker.io"
[host."https://one.example"]
capabilities = ["pull", "resolve"]
ca = "ca.pem"
client = [["a.pem", "a.key"], ["both.pem", ""]]
dial_timeout = "500ms"
[host."https://one.example".header]
x-a = ["1", "2"]
[host."http://two.example:8080/prefix"]
skip_verify = true
[host."https://three.example/api/docker"]
override_path = true
""",
    )
    one, two, three, own = servers_of("docker.io", [tmp_path], Access())
    assert one.url == "https://one.example/v2"
    assert one.capabilities == ("pull", "resolve")
    assert one.ca == (str(directory / "ca.pem"),)
    assert one.client == ((str(directory / "a.pem"), str(directory / "a.key")), (str(directory / "both.pem"), None))
    assert (one.upstream, one.header, one.dial_timeout) == ("docker.io", {"x-a": "1, 2"}, 0.5)
    assert two.url == "http://two.example:8080/prefix/v2"
    assert two.skip_verify
    assert three.url == "https://three.example/api/docker"
    assert (own.url, own.upstream) == ("https://index.docker.io/v2", "")
    assert str(directory) in one.origin
    assert '[host."https://one.example"]' in one.origin


@pytest.mark.parametrize("name", ["registry.example_5000_", "registry.example:5000", "registry.example", "_default"])
def test_the_directory_of_a_host(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, '[host."https://mirror.example"]')
    assert urls(tmp_path, "registry.example:5000")[0] == "https://mirror.example/v2"


def test_the_server_may_be_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, "registry.example", 'server = "https://other.example"\nskip_verify = true')
    (server,) = servers_of("registry.example", [tmp_path], Access())
    assert (server.url, server.upstream, server.skip_verify) == ("https://other.example/v2", "registry.example", True)


def test_a_local_registry_may_have_tls(tmp_path: Path) -> None:
    write(tmp_path, "localhost_5000_", 'server = "https://localhost:5000"\nca = "ca.pem"')
    (server,) = servers_of("localhost:5000", [tmp_path], Access())
    assert (server.url, server.upstream) == ("https://localhost:5000/v2", "")


def test_certificates_alone(tmp_path: Path) -> None:
    directory = tmp_path / "registry.example"
    directory.mkdir()
    for name in ("b.crt", "a.crt", "c.cert", "c.key"):
        (directory / name).touch()
    (server,) = servers_of("registry.example", [tmp_path], Access())
    assert server.ca == (str(directory / "a.crt"), str(directory / "b.crt"))
    assert server.client == ((str(directory / "c.cert"), str(directory / "c.key")),)
    (directory / "c.key").unlink()
    with pytest.raises(InvalidArgument, match="without its key"):
        servers_of("registry.example", [tmp_path], Access())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "is not TOML"),
        ('[host."https://a.example"]\nskipverify = true', "the key 'skipverify' is not known"),
        ('[host."https://a.example"]\ncapabilities = ["pul"]', "no capability 'pul'"),
        ('[host."https://a.example"]\nskip_verify = "yes"', "skip_verify must be of the type bool"),
        ('[host."ftp://a.example"]', "is no URL of a registry"),
        ('[host."https://a.example"]\nca = [1]', "ca must be a text"),
        ('[host."https://a.example"]\nclient = [["a", "b", "c"]]', "client must be"),
        ('[host."https://a.example"]\ndial_timeout = 5', "must be a duration"),
        ('host = "https://a.example"', "host must be of the type dict"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, text: str, said: str) -> None:
    directory = write(tmp_path, "registry.example", text)
    with pytest.raises(InvalidArgument, match=said) as caught:
        servers_of("registry.example", [tmp_path], Access())
    assert str(directory / "hosts.toml") in str(caught.value)
