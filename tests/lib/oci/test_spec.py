import json
from pathlib import Path

import pytest
from intermodal_core.contracts.common import Mount
from intermodal_core.errors import InvalidArgument
from intermodal_oci import capabilities, limits, mounts, seccomp
from intermodal_oci.model import ContainerConfig, ImageConfig
from intermodal_oci.spec import DEFAULT_PATH, SpecOptions, build_process, build_spec, merge_env

IMAGE = ImageConfig(
    config=ContainerConfig(
        user="1:2",
        env=("PATH=/image", "A=1", "bare"),
        entrypoint=("/entry", "-x"),
        cmd=("serve",),
        working_dir="srv",
    )
)


@pytest.mark.parametrize(
    ("options", "args"),
    [
        ({}, ["/entry", "-x", "serve"]),
        ({"args": ("a", "b")}, ["/entry", "-x", "a", "b"]),
        ({"entrypoint": ("sh",)}, ["sh"]),
        ({"entrypoint": ("sh",), "args": ("-c", "x")}, ["sh", "-c", "x"]),
        ({"entrypoint": (), "args": ("ls",)}, ["ls"]),
    ],
)
def test_command(options: dict[str, tuple[str, ...]], args: list[str]) -> None:
    assert build_spec(SpecOptions(image_config=IMAGE, **options))["process"]["args"] == args  # type: ignore[arg-type]


def test_what_the_image_says_holds_until_it_is_overridden() -> None:
    process = build_spec(SpecOptions(image_config=IMAGE))["process"]
    assert process["env"] == ["PATH=/image", "A=1"]
    assert process["cwd"] == "/srv"
    assert process["user"] == {"uid": 1, "gid": 2, "additionalGids": [2]}
    assert process["noNewPrivileges"] is True
    process = build_spec(SpecOptions(image_config=IMAGE, env=("A=2=3", "B="), cwd="/x/../y", user="5", terminal=True))[
        "process"
    ]
    assert process["env"] == ["PATH=/image", "TERM=xterm", "A=2=3", "B="]
    assert process["cwd"] == "/y"
    assert process["user"]["uid"] == 5
    assert process["terminal"] is True


def test_the_document_is_plain_json() -> None:
    spec = build_spec(SpecOptions(args=("x",), annotations={"a": "b"}, hostname="h", cgroups_path="/c", readonly=True))
    assert json.loads(json.dumps(spec)) == spec
    assert spec["annotations"] == {"a": "b"}
    assert spec["hostname"] == "h"
    assert spec["root"] == {"path": "rootfs", "readonly": True}
    assert spec["linux"]["cgroupsPath"] == "/c"
    assert "rlimits" not in spec["process"]


def test_networks() -> None:
    def network(mode: str) -> list[dict[str, str]]:
        namespaces = build_spec(SpecOptions(args=("x",), network=mode))["linux"]["namespaces"]
        return [namespace for namespace in namespaces if namespace["type"] == "network"]

    assert network("new") == [{"type": "network"}]
    assert network("host") == []
    assert network("/run/netns/a") == [{"type": "network", "path": "/run/netns/a"}]
    with pytest.raises(InvalidArgument, match="Unknown network 'bridge'"):
        network("bridge")


def test_limits_and_mounts() -> None:
    volume = mounts.parse_volume("/data:/dev/shm:ro")
    spec = build_spec(SpecOptions(args=("x",), memory=64 << 20, cpus=1.5, mounts=(volume,)))
    assert spec["linux"]["resources"]["memory"] == {"limit": 64 << 20}
    assert spec["linux"]["resources"]["cpu"] == {"quota": 150_000, "period": 100_000}
    shm = [mount for mount in spec["mounts"] if mount["destination"] == "/dev/shm"]
    assert shm == [
        {"destination": "/dev/shm", "type": "bind", "source": "/data", "options": ["rbind", "rprivate", "ro"]}
    ]


def test_privileged() -> None:
    spec = build_spec(SpecOptions(args=("x",), privileged=True))
    assert spec["process"]["noNewPrivileges"] is False
    assert set(spec["process"]["capabilities"]["bounding"]) == capabilities.grantable()
    assert not {"seccomp", "maskedPaths", "readonlyPaths"} & set(spec["linux"])
    assert spec["linux"]["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "no command"),
        ({"args": ("",)}, "no command"),
        ({"args": ("a\0b",)}, "NUL"),
        ({"args": ("x",), "env": ("NOVALUE",)}, "'NOVALUE'"),
        ({"args": ("x",), "env": ("=v",)}, "'=v'"),
        ({"args": ("x",), "env": ("A=\0",)}, "KEY=VALUE"),
        ({"args": ("x",), "cwd": "relative"}, "absolute path"),
        ({"args": ("x",), "user": "nobody"}, "no user 'nobody'"),
        ({"args": ("x",), "memory": 1}, "1 bytes"),
        ({"args": ("x",), "memory": -1}, "-1 bytes"),
        ({"args": ("x",), "hostname": "h" * 65}, "64 characters"),
        ({"args": ("x",), "cpus": 0.0}, "processors"),
        ({"args": ("x",), "cpus": float("nan")}, "processors"),
        ({"args": ("x",), "add_capabilities": ("CAP_FLY",)}, "'CAP_FLY'"),
        ({"args": ("x",), "mounts": (Mount("bind", "/a"),)}, "absolute target"),
    ],
)
def test_bad_options(options: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build_spec(SpecOptions(**options))  # type: ignore[arg-type]
    assert reason in str(caught.value)


def test_exec_process_inherits_and_overrides(rootfs: Path) -> None:
    spec = build_spec(SpecOptions(image_config=IMAGE, add_capabilities=("NET_ADMIN",)))
    plain = build_process(spec, ["ls"])
    assert plain == {**spec["process"], "args": ["ls"]}
    other = build_process(spec, ["id"], env=["A=9"], cwd="/tmp", user="user", terminal=True, rootfs=str(rootfs))
    assert other["user"] == {"uid": 1000, "gid": 1001, "additionalGids": [1001, 50, 10]}
    assert other["env"] == ["PATH=/image", "TERM=xterm", "A=9"]
    assert (other["cwd"], other["terminal"]) == ("/tmp", True)
    assert "CAP_NET_ADMIN" in other["capabilities"]["bounding"]
    with pytest.raises(InvalidArgument, match="no command"):
        build_process(spec, [])


def test_merge_env() -> None:
    assert merge_env() == [DEFAULT_PATH]
    assert merge_env(["A=1", "B=2"], ["A=3"]) == [DEFAULT_PATH, "A=3", "B=2"]


def test_volumes() -> None:
    assert mounts.parse_volume("/a:/b") == Mount("bind", "/a", ("rbind", "rprivate", "rw"), "/b")
    assert mounts.parse_volume("/a/../c:/b//d/:ro,rslave") == Mount("bind", "/c", ("rbind", "rslave", "ro"), "/b/d")
    assert mounts.parse_volume("/a://b").target == "/b"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "SRC:DST"),
        ("/a", "SRC:DST"),
        ("/a:/b:ro:x", "SRC:DST"),
        ("a:/b", "source 'a'"),
        ("/a:b", "destination 'b'"),
        (":/b", "source ''"),
        ("/a:/", "root directory"),
        ("/a:/x/..", "root directory"),
        ("/a:/b:", "unknown option ''"),
        ("/a:/b:exec", "unknown option 'exec'"),
        ("/a\0:/b", "NUL"),
    ],
)
def test_bad_volumes(text: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mounts.parse_volume(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("67108864", 64 << 20), ("64m", 64 << 20), ("64MiB", 64 << 20), ("1.5G", 3 << 29), ("8192kb", 8 << 20)],
)
def test_memory(text: str, size: int) -> None:
    assert limits.parse_memory(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "m", "64x", "-64m", "1.2.3g", ".m", "0", "1k", "9" * 40, "999999t" * 2, "nan", "1e9", "٦٤m", "9999999999t"],
)
def test_bad_memory(text: str) -> None:
    with pytest.raises(InvalidArgument, match="memory"):
        limits.parse_memory(text)


def test_cpus() -> None:
    assert limits.parse_cpus("0.5") == 0.5
    for bad in ("", "x", "0", "-1", "inf", "nan", "1e300", "0.001"):
        with pytest.raises(InvalidArgument, match="processors"):
            limits.parse_cpus(bad)


def test_capabilities() -> None:
    can = capabilities.grantable()
    usual = capabilities.choose()
    assert set(usual) == set(capabilities.DEFAULT) & can
    assert capabilities.choose(drop=["all"]) == []
    assert capabilities.choose(drop=["ALL"], add=["net_admin"]) == ["CAP_NET_ADMIN"]
    assert set(capabilities.choose(add=["ALL"])) == can
    assert "CAP_KILL" not in capabilities.choose(drop=["kill"])
    assert capabilities.choose(add=["kill"], drop=["kill"]).count("CAP_KILL") == 1


def test_every_capability_has_the_kernels_number() -> None:
    with open("/usr/include/linux/capability.h") as header:
        for line in header:
            words = line.split()
            if len(words) == 3 and words[0] == "#define" and words[1] in capabilities.ALL and words[2].isdigit():
                assert capabilities.ALL.index(words[1]) == int(words[2])


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_seccomp_profile(architecture: str) -> None:
    profile = seccomp.default_profile(capabilities.DEFAULT, architecture)
    allowed = set(profile["syscalls"][0]["names"])
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {"execve", "openat", "futex", "chroot"} <= allowed
    refused = "mount unshare setns bpf init_module keyctl add_key kexec_load reboot swapon io_uring_setup userfaultfd"
    assert not allowed & set(refused.split())
    assert profile["architectures"][0] == {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}[architecture]
    names = [name for rule in profile["syscalls"] for name in rule["names"]]
    assert names.count("clone3") == 1
    with_admin = seccomp.default_profile(capabilities.ALL, architecture)
    assert {"mount", "unshare", "clone", "clone3"} <= set(with_admin["syscalls"][0]["names"])
    assert all(not {"clone", "clone3"} & set(rule["names"]) for rule in with_admin["syscalls"][1:])
