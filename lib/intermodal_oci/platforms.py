"""Platforms: what this machine is, how people write one, and which manifest of an index fits best.

Names and normal forms are Go's (GOOS, GOARCH, GOARM), as image indexes use them; the order of preference is
that of containerd's clients: the same architecture first, then lower variants, then what the processor still
executes (386 on amd64, 32-bit arm on arm64).
"""

import os
import sys
from collections.abc import Iterable
from typing import Final

from intermodal_core.contracts.common import Descriptor, Platform
from intermodal_core.errors import InvalidArgument, NotFound

__all__ = ["choose", "format_platform", "host", "matches", "normalise", "parse", "preferences"]

# What other tools call an architecture: Go's name and the variant that the name implies.
_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "ppc64el": ("ppc64le", ""),
    "mipsel": ("mipsle", ""),
    "mips64el": ("mips64le", ""),
    "loongarch64": ("loong64", ""),
}
_OPERATING_SYSTEMS: Final = {"macos": "darwin"}
_KNOWN_SYSTEMS: Final = frozenset({"linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "wasip1"})
# The variant that a bare architecture means, and is left out in normal form.
_IMPLIED: Final = {"arm64": "v8", "amd64": "v1"}


def host() -> Platform:
    """The platform of the running kernel, in normal form."""
    return normalise(Platform(sys.platform, os.uname().machine))


def parse(text: str) -> Platform:
    """Parse `OS/ARCH[/VARIANT]`; a lone architecture means Linux, a lone `linux` this machine's architecture.

    Returns the normal form. Raises InvalidArgument.
    """
    parts = text.split("/")
    if len(text) > 200 or len(parts) > 3 or not all(_is_word(part) for part in parts):
        raise InvalidArgument(f"Platform {text[:100]!r} must have the form OS/ARCH[/VARIANT], as linux/arm64/v8")
    if len(parts) > 1:
        return normalise(Platform(parts[0], parts[1], "".join(parts[2:])))
    name = _OPERATING_SYSTEMS.get(text.lower(), text.lower())
    if name in _KNOWN_SYSTEMS:
        here = host()
        return normalise(Platform(name, here.architecture, here.variant))
    return normalise(Platform("linux", text))


def normalise(platform: Platform) -> Platform:
    """The platform in Go's names: `Linux/x86_64` gives linux/amd64, `linux/arm64/v8` gives linux/arm64.

    32-bit arm without a variant is v7. Names that are not known stay, in lower case.
    """
    system = platform.os.lower()
    system = _OPERATING_SYSTEMS.get(system, system)
    architecture = platform.architecture.lower()
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = platform.variant.lower() or implied
    if variant.isdigit():
        variant = "v" + variant
    if architecture == "arm" and not variant:
        variant = "v7"
    if variant == _IMPLIED.get(architecture):
        variant = ""
    return Platform(system, architecture, variant, platform.os_version, platform.os_features)


def format_platform(platform: Platform) -> str:
    """`linux/arm/v7`: what `parse` reads."""
    parts = [platform.os, platform.architecture, platform.variant]
    return "/".join(part for part in parts if part)


def preferences(platform: Platform) -> list[Platform]:
    """What a machine of this platform can run, the best first: the platform itself, then what is older."""
    wanted = normalise(platform)
    system, architecture, variant = wanted.os, wanted.architecture, wanted.variant
    order = [(architecture, variant)]
    if architecture in _IMPLIED:
        lowest = int(_IMPLIED[architecture][1:])
        level = _level(variant)
        if level is not None:
            order += [(architecture, f"v{lower}") for lower in range(level - 1, lowest, -1)]
            order.append((architecture, ""))
    if architecture == "amd64":
        order.append(("386", ""))
    elif architecture == "arm64":
        order += [("arm", f"v{lower}") for lower in (8, 7, 6, 5)]
    elif architecture == "arm":
        level = _level(variant)
        if level is not None:
            order += [("arm", f"v{lower}") for lower in range(level - 1, 4, -1)]
    return [Platform(system, *pair) for pair in order]


def matches(wanted: Platform, offered: Platform) -> bool:
    """Whether a machine of the platform `wanted` runs what was made for `offered`."""
    return _rank(preferences(wanted), offered) is not None


def choose(manifests: Iterable[Descriptor], wanted: Platform) -> Descriptor:
    """The manifest of an index that fits `wanted` best; of equals the first.

    One that names no platform is taken only where none that names one fits. Raises NotFound, naming the
    platforms there are.
    """
    order = preferences(wanted)
    best: tuple[int, Descriptor] | None = None
    offers: list[str] = []
    for descriptor in manifests:
        if descriptor.platform is None:
            rank: int | None = len(order)
        else:
            rank = _rank(order, descriptor.platform)
            offers.append(format_platform(descriptor.platform))
        if rank is not None and (best is None or rank < best[0]):
            best = rank, descriptor
    if best is None:
        there = ", ".join(dict.fromkeys(offers)) or "none"
        raise NotFound(f"The image has no manifest for {format_platform(wanted)}; it has: {there}")
    return best[1]


def _rank(order: list[Platform], offered: Platform) -> int | None:
    offered = normalise(offered)
    for rank, platform in enumerate(order):
        if (platform.os, platform.architecture, platform.variant) == (
            offered.os,
            offered.architecture,
            offered.variant,
        ):
            return rank
    return None


def _level(variant: str) -> int | None:
    return int(variant[1:]) if variant[:1] == "v" and variant[1:] in set("123456789") else None


def _is_word(text: str) -> bool:
    return text.isascii() and text.replace("_", "").replace("-", "").replace(".", "").isalnum()
