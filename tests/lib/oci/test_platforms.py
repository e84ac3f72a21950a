import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.errors import InvalidArgument, NotFound
from intermodal_oci import platforms


def offer(text: str | None, number: int = 0) -> Descriptor:
    parts = (text or "").split("/")
    platform = Platform(parts[0], parts[1], "".join(parts[2:])) if text else None
    return Descriptor("application/vnd.oci.image.manifest.v1+json", f"sha256:{number:064x}", 1, platform=platform)


def test_host_is_what_dpkg_says() -> None:
    debian = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True)
    assert platforms.host() == platforms.parse("linux/" + debian.stdout.strip())


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("arm64", "linux/arm64"),
        ("i686", "linux/386"),
        ("macos/arm64", "darwin/arm64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
    ],
)
def test_parse(text: str, normal: str) -> None:
    assert platforms.format_platform(platforms.parse(text)) == normal
    assert platforms.parse(normal) == platforms.parse(text)


def test_a_lone_system_means_this_machine() -> None:
    assert platforms.parse("linux") == platforms.host()


@pytest.mark.parametrize("bad", ["", "/", "linux/", "a/b/c/d", "linux/am d64", "linux/ä", "x" * 300])
def test_bad_platform(bad: str) -> None:
    with pytest.raises(InvalidArgument, match="OS/ARCH"):
        platforms.parse(bad)


@pytest.mark.parametrize(
    ("wanted", "offers", "best"),
    [
        ("linux/amd64", ["linux/arm64", "linux/386", "linux/amd64"], 2),
        ("linux/amd64", ["linux/386", "linux/arm64"], 0),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], 1),
        ("linux/amd64", ["linux/amd64/v2", "linux/amd64"], 1),
        ("linux/arm64", ["linux/arm/v6", "linux/arm/v7"], 1),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], 1),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], 1),
        ("linux/amd64", ["linux/amd64", "linux/amd64"], 0),
        ("linux/amd64", [None, "linux/amd64"], 1),
        ("linux/amd64", ["linux/s390x", None], 1),
    ],
)
def test_choose(wanted: str, offers: list[str | None], best: int) -> None:
    manifests = [offer(text, number) for number, text in enumerate(offers)]
    assert platforms.choose(manifests, platforms.parse(wanted)) is manifests[best]


def test_nothing_fits() -> None:
    with pytest.raises(NotFound, match=r"no manifest for linux/arm64; it has: linux/s390x, windows/amd64"):
        platforms.choose([offer("linux/s390x"), offer("windows/amd64")], platforms.parse("arm64"))
    with pytest.raises(NotFound, match="none"):
        platforms.choose([], platforms.parse("arm64"))


@given(st.sampled_from(["amd64", "arm64", "arm", "386", "riscv64"]), st.sampled_from(["", "v1", "v5", "v8", "odd"]))
def test_each_runs_its_own_and_normal_form_is_stable(architecture: str, variant: str) -> None:
    platform = platforms.normalise(Platform("linux", architecture, variant))
    assert platforms.normalise(platform) == platform
    assert platforms.matches(platform, platform)
    assert not platforms.matches(platform, Platform("windows", architecture, variant))
