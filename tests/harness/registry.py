"""Debian's docker-registry on the loopback, plain or with TLS, open or with a password."""

from __future__ import annotations

import datetime
import ipaddress
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

__all__ = ["PASSWORD", "USER", "Registry", "certificate", "free_port", "push_archive", "registry"]

USER, PASSWORD = "keeper", "secret"
#: USER:PASSWORD as htpasswd -B writes it.
_HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
_CONFIG = """version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}
http: {{addr: "{address}"{tls}}}
{auth}
"""


@dataclass(frozen=True)
class Registry:
    """One that runs: host and port, its CA ("" without TLS), whether it takes USER and PASSWORD."""

    address: str
    ca: str
    closed: bool


@contextmanager
def registry(directory: Path, *, tls: bool = False, closed: bool = False) -> Iterator[Registry]:
    """Run one below the new `directory`, which is removed in the end."""
    assert shutil.which("docker-registry"), "Debian's docker-registry is missing: apt-get install docker-registry"
    directory.mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    words = {"directory": directory, "address": address, "tls": "", "auth": ""}
    if tls:
        certificate(directory / "cert.pem", directory / "key.pem")
        words["tls"] = f", tls: {{certificate: {directory}/cert.pem, key: {directory}/key.pem}}"
    if closed:
        (directory / "htpasswd").write_text(_HTPASSWD)
        words["auth"] = f"auth: {{htpasswd: {{realm: tests, path: {directory}/htpasswd}}}}"
    config = directory / "config.yml"
    config.write_text(_CONFIG.format(**words))
    with open(directory / "log", "ab") as log:
        server = subprocess.Popen(
            ["docker-registry", "serve", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await(server, f"{'https' if tls else 'http'}://{address}/v2/", directory / "log")
        yield Registry(address, str(directory / "cert.pem") if tls else "", closed)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(directory)


def push_archive(archive: Path, name: str) -> None:
    """Have skopeo push an OCI archive into a registry without TLS and password; `name` is HOST/PATH:TAG."""
    command = [
        "skopeo",
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        f"oci-archive:{archive}",
        f"docker://{name}",
    ]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()


def certificate(path: Path, key_path: Path) -> None:
    """A certificate of its own signing for localhost and 127.0.0.1, that is its own CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _await(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5, context=trusting):
                return
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 401:
                    return
        except (urllib.error.URLError, OSError):
            pass
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"docker-registry does not answer:\n{log.read_text()[-1000:]}") from None
        time.sleep(0.05)
