"""`[defaults]` and `[[rules]]` of the config: their types, which rule matches, and what their types cannot say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec
from intermodal_core.config import Config
from intermodal_core.config_types import nearest
from intermodal_core.contracts.managers.policy import KINDS, SUBJECTS, Subject
from intermodal_core.errors import InvalidArgument

from intermodal_policy.runtimes import CONTAINERD

__all__ = ["Defaults", "Rule", "check"]

Verification = Literal["enforce", "audit", "off"]


class Defaults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[defaults]` of the config: what is used where neither a client nor a rule says."""

    runtime: Annotated[str, msgspec.Meta(description="The runtime of containers that name none.")] = "runc"
    snapshotter: Annotated[
        str, msgspec.Meta(description="The snapshotter of images and containers that name none.")
    ] = "overlayfs"
    network: Annotated[str, msgspec.Meta(description="The network of `imod run` without --net.")] = "cni"
    verification: Annotated[
        Verification,
        msgspec.Meta(description="Whether verifiers must agree to an image, are only heard, or not asked."),
    ] = "off"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of `[[rules]]`. Patterns are the shell's: `*` is any text, slashes too, `?` a character, `[ab]` one of these."""

    namespace: Annotated[str, msgspec.Meta(description="Pattern of the namespace.")] = "*"
    image: Annotated[
        str, msgspec.Meta(description="Pattern of the image's full name, such as docker.io/library/*:latest.")
    ] = "*"
    label: Annotated[
        dict[str, str],
        msgspec.Meta(description="Patterns, all of which the labels of container or image of these keys match."),
    ] = {}
    with_runtime: Annotated[
        str, msgspec.Meta(description="Pattern of the runtime that was chosen; for all subjects but the runtime.")
    ] = "*"
    runtime: Annotated[str | None, msgspec.Meta(description="The runtime to use.")] = None
    snapshotter: Annotated[str | None, msgspec.Meta(description="The snapshotter to use.")] = None
    network: Annotated[str | None, msgspec.Meta(description="The network to use.")] = None
    verification: Annotated[Verification | None, msgspec.Meta(description="The mode of verification.")] = None
    force: Annotated[
        bool, msgspec.Meta(description="Whether `runtime` counts also where a client names another one.")
    ] = False

    def matches(self, namespace: str, image: str, labels: Mapping[str, str], runtime: str) -> bool:
        """Whether all of its patterns do; `runtime` is "" while that is what is chosen."""
        return (
            fnmatchcase(namespace, self.namespace)
            and fnmatchcase(image, self.image)
            and fnmatchcase(runtime, self.with_runtime)
            and all(key in labels and fnmatchcase(labels[key], pattern) for key, pattern in self.label.items())
        )

    @property
    def of_whole_namespaces(self) -> bool:
        """Whether it tells nothing but namespaces apart."""
        return self.image == self.with_runtime == "*" and not self.label


def check(config: Config, names: Mapping[str, Collection[str]]) -> None:
    """Look at what the types do not say; `names` are the instances in use, by kind. Raises InvalidArgument with the line."""
    given = config.tables.get("defaults", {})
    for subject in KINDS:
        if isinstance(given, dict) and isinstance(value := given.get(subject), str):
            _known(config, ("defaults", subject), f"[defaults] {subject}", subject, value, names)
    for number, rule in enumerate(config.table("rules", list[Rule])):
        where = f"{config.where(('rules', number))}: the rule {number + 1}"
        if all(getattr(rule, subject) is None for subject in SUBJECTS):
            raise InvalidArgument(f"{where} says nothing: give it one of {', '.join(SUBJECTS)}")
        if rule.force and rule.runtime is None:
            raise InvalidArgument(f"{where} says force, which goes with a runtime alone")
        if rule.with_runtime != "*" and rule.runtime is not None:
            raise InvalidArgument(f"{where} has both with_runtime and runtime: make two rules of it")
        for subject in KINDS:
            if (value := getattr(rule, subject)) is not None:
                _known(config, ("rules", number), f"the rule {number + 1}: {subject}", subject, value, names)


def _known(
    config: Config,
    path: tuple[str | int, ...],
    what: str,
    subject: Subject,
    value: str,
    names: Mapping[str, Collection[str]],
) -> None:
    known = names.get(KINDS[subject], ())
    if value in known or (subject == "runtime" and (value.startswith("/") or CONTAINERD.fullmatch(value))):
        return
    raise InvalidArgument(f'{config.where(path)}: {what}: there is no {subject} "{value}"; {nearest(value, known)}')
