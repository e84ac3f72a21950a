import json

import msgspec
import pytest
from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.errors import InvalidArgument
from intermodal_oci import model

DIGEST = "sha256:" + "a" * 64
BLOB = {"mediaType": model.OCI_CONFIG, "digest": DIGEST, "size": 2}


def manifest(**changes: object) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": model.OCI_MANIFEST,
        "config": BLOB,
        "layers": [{"mediaType": model.OCI_LAYER_GZIP, "digest": DIGEST, "size": 9, "annotations": {"a": "b"}}],
        **changes,
    }
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


def test_manifest() -> None:
    decoded = model.decode_manifest(manifest(), DIGEST)
    assert decoded.config == Descriptor(model.OCI_CONFIG, DIGEST, 2)
    assert decoded.layers[0].annotations == {"a": "b"}
    assert model.decode_manifest(model.encode(decoded), DIGEST) == decoded


def test_index_with_platforms() -> None:
    platform = {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1"}
    data = json.dumps({"schemaVersion": 2, "manifests": [{**BLOB, "platform": platform}]}).encode()
    decoded = model.decode_index(data, "index.json")
    assert decoded.manifests[0].platform == Platform("linux", "arm", "v7", "1")
    assert json.loads(model.encode(decoded)) == json.loads(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "no manifest"),
        (b"{}", "schema version 2"),
        (manifest(schemaVersion=1), "schema version 2"),
        (manifest(config=...), "config"),
        (manifest(layers="x"), "layers"),
        (manifest(config={"mediaType": "x", "digest": DIGEST, "size": "2"}), "size"),
        (manifest(manifests=[]), "manifests"),
        (manifest(config={**BLOB, "digest": "sha256:../../etc/passwd"}), "16 characters"),
        (manifest(layers=[{**BLOB, "digest": "x"}]), "ALGORITHM:HEX"),
        (manifest(layers=[{**BLOB, "size": -1}]), "size of -1"),
        (b" " * (model.MAX_DOCUMENT + 1), "limit"),
    ],
)
def test_bad_manifest_names_the_digest(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        model.decode_manifest(data, DIGEST)
    assert DIGEST in str(caught.value)
    assert reason in str(caught.value)


def test_an_index_is_no_manifest_nor_the_reverse() -> None:
    with pytest.raises(InvalidArgument, match="no index"):
        model.decode_index(manifest(), DIGEST)
    with pytest.raises(InvalidArgument, match="no manifest"):
        model.decode_manifest(b'{"schemaVersion": 2, "manifests": []}', DIGEST)


def test_config_with_the_nulls_that_docker_writes() -> None:
    data = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Env": ["PATH=/bin"],
                "Cmd": ["sh"],
                "Entrypoint": None,
                "Labels": None,
                "Volumes": {"/data": {}},
                "ExposedPorts": {"80/tcp": {}},
                "WorkingDir": "/w",
                "User": "",
                "OnBuild": None,
                "StopSignal": "SIGQUIT",
            },
            "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
            "history": [{"created": "2024-01-01T00:00:00Z", "empty_layer": True}],
        }
    ).encode()
    config = model.decode_config(data, DIGEST)
    assert config.config.cmd == ("sh",)
    assert config.config.entrypoint == ()
    assert config.config.labels == {}
    assert config.config.volumes == {"/data": {}}
    assert config.config.stop_signal == "SIGQUIT"
    assert config.rootfs.diff_ids == (DIGEST,)
    assert config.history[0].empty_layer
    assert config.platform == Platform("linux", "amd64")
    assert model.decode_config(model.encode(config), DIGEST) == config


def test_an_encoded_config_has_the_fields_that_others_demand() -> None:
    built = model.ImageConfig(os="linux", architecture="amd64", rootfs=model.RootFS(diff_ids=(DIGEST,)))
    assert json.loads(model.encode(built)) == {
        "os": "linux",
        "architecture": "amd64",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
    }
    assert model.encode(model.Layout()) == b'{"imageLayoutVersion":"1.0.0"}'


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"not json", "not valid JSON"), (b'{"config": {"Env": "X"}}', r"config.Env"), (b"3", "no image config")],
)
def test_bad_config(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason) as caught:
        model.decode_config(data, DIGEST)
    assert DIGEST in str(caught.value)


def test_docker_archive() -> None:
    entries = model.decode_docker_archive(b'[{"Config":"c.json","RepoTags":null,"Layers":["a/layer.tar"]}]')
    assert entries == [model.DockerArchiveEntry(config="c.json", layers=("a/layer.tar",))]
    with pytest.raises(InvalidArgument, match=r"manifest\.json"):
        model.decode_docker_archive(b"{}")


def test_media_types() -> None:
    assert model.is_manifest(model.DOCKER_MANIFEST)
    assert not model.is_manifest(model.OCI_INDEX)
    assert model.is_index(model.DOCKER_INDEX)
    assert model.is_config(model.OCI_CONFIG)
    assert model.layer_compression(model.OCI_LAYER) is None
    assert model.layer_compression(model.DOCKER_LAYER_GZIP) == "gzip"
    assert model.layer_compression(model.OCI_LAYER_ZSTD) == "zstd"
    assert not model.is_layer(model.OCI_LAYER_GZIP + "+encrypted")
    with pytest.raises(InvalidArgument, match="not that of a layer"):
        model.layer_compression("text/plain")


def test_documents_are_immutable() -> None:
    with pytest.raises(AttributeError):
        model.ImageConfig().os = "linux"  # type: ignore[misc]
    assert msgspec.structs.asdict(model.RootFS())["type"] == "layers"
