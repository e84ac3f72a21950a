"""Rules: which counts, what is said about it, by which names a runtime is found, and every mistake with its line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from intermodal_core.config import Config, load
from intermodal_core.contracts.managers.policy import LABELS, Subject
from intermodal_core.errors import InvalidArgument
from intermodal_policy.plugin import plugin
from intermodal_policy.policy import Policy

NAMES = {
    "runtimes": {"runc": "runc", "gvisor": "runsc", "careful": "runc"},
    "snapshotters": {"overlayfs": "overlayfs", "native": "native"},
    "networks": {"none": "none", "host": "host"},
}
RULES = """version = 1
[defaults]
snapshotter = "native"

[[rules]]
namespace = "secure*"
runtime = "gvisor"
force = true

[[rules]]
image = "docker.io/library/*"
runtime = "careful"
network = "host"

[[rules]]
label = { tier = "web?" }
snapshotter = "overlayfs"
verification = "enforce"

[[rules]]
with_runtime = "gvisor"
snapshotter = "overlayfs"

[[rules]]
namespace = "k8s.io"
snapshotter = "overlayfs"
runtime = "careful"
"""

Write = Callable[[str], Config]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Config:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return load(path)

    return write


def policy(config: Config, names: Mapping[str, Mapping[str, str]] = NAMES) -> Policy:
    return Policy(lambda: config, lambda kind: names[kind])


def choose(policy: Policy, subject: Subject, *arguments: Any, **keywords: Any) -> tuple[str, str]:
    return asyncio.run(policy.choose(subject, *arguments, **keywords))


@pytest.mark.parametrize(
    ("subject", "arguments", "keywords", "value", "why"),
    [
        ("runtime", ("default",), {}, "runc", "the built-in default"),
        ("snapshotter", ("default",), {}, "native", "[defaults] snapshotter of {file}:3"),
        ("network", ("default", "docker.io/library/busybox:latest"), {}, "host", "the rule 2 of {file}:10"),
        ("runtime", ("default", "docker.io/library/a"), {}, "careful", "the rule 2 of {file}:10"),
        ("runtime", ("default", "docker.io/library/a"), {"asked": "runc"}, "runc", "named by the client"),
        (
            "runtime",
            ("secure-1", "docker.io/library/a"),
            {"asked": "runc"},
            "gvisor",
            "the rule 1, by force, of {file}:5",
        ),
        ("snapshotter", ("x", "", {"tier": "web1"}), {}, "overlayfs", "the rule 3 of {file}:15"),
        ("snapshotter", ("x", "", {"tier": "web"}), {}, "native", "[defaults] snapshotter of {file}:3"),
        ("snapshotter", ("x", "", {"tier": "web1"}), {"asked": "native"}, "native", "named by the client"),
        ("verification", ("x", "", {"tier": "web1"}), {}, "enforce", "the rule 3 of {file}:15"),
        ("verification", ("x",), {}, "off", "the built-in default"),
        ("snapshotter", ("x",), {"runtime": "gvisor"}, "overlayfs", "the rule 4 of {file}:20"),
        ("snapshotter", ("secure-1",), {}, "overlayfs", "the rule 4 of {file}:20"),  # the runtime is chosen first
        (
            "snapshotter",
            ("x",),
            {"runtime": "gvisor", "given": {LABELS["snapshotter"]: "native"}},
            "native",
            "the label containerd.io/defaults/snapshotter of the namespace x",
        ),
    ],
)
def test_what_is_chosen(
    write: Write, subject: Subject, arguments: tuple[Any, ...], keywords: dict[str, Any], value: str, why: str
) -> None:
    config = write(RULES)
    assert choose(policy(config), subject, *arguments, **keywords) == (value, why.format(file=config.source))


def test_the_explanation_shows_all_that_was_considered_in_order(write: Write) -> None:
    config = write(RULES)
    explained = asyncio.run(
        policy(config).explain("k8s.io", "docker.io/library/a", {"tier": "web1"}, {"network": "none"})
    )
    by_subject = {each.subject: each for each in explained}
    runtime = by_subject["runtime"]
    assert (runtime.value, runtime.error) == ("careful", "")
    assert [(each.says, each.applies, each.counts) for each in runtime.considered] == [
        ("gvisor", False, False),
        ("careful", True, True),
        ("careful", True, False),
        ("runc", True, False),
    ]
    assert runtime.considered[0].source == f"the rule 1, by force, of {config.source}:5"
    assert by_subject["network"].why == "named by the client"
    assert by_subject["snapshotter"].why.startswith("the rule 3")
    wrong = asyncio.run(policy(config).explain("x", asked={"runtime": "nope"}))[0]
    assert "there is no runtime nope (named by the client)" in wrong.error


def test_namespaces_get_the_labels_of_rules_for_the_whole_of_them(write: Write) -> None:
    rules = policy(write(RULES))
    assert rules.labels("k8s.io") == {LABELS["snapshotter"]: "overlayfs", LABELS["runtime"]: "careful"}
    assert rules.labels("other") == {LABELS["snapshotter"]: "native"}
    assert rules.labels("secure-1")[LABELS["runtime"]] == "gvisor"
    assert policy(load(None)).labels("other") == {}


def test_another_config_in_force_is_another_choice(write: Write, tmp_path: Path) -> None:
    now = load(None)
    rules = Policy(lambda: now, lambda kind: NAMES[kind])
    assert choose(rules, "snapshotter", "x")[0] == "overlayfs"
    now = write(RULES)
    assert choose(rules, "snapshotter", "x")[0] == "native"


# Runtimes by their names.


def test_runtimes_by_the_names_of_containerd(write: Write) -> None:
    rules = policy(load(None))
    assert choose(rules, "runtime", "x", asked="io.containerd.runc.v2") == (
        "runc",
        "named by the client as io.containerd.runc.v2",
    )
    assert choose(rules, "runtime", "x", asked="io.containerd.runsc.v1")[0] == "gvisor"
    two = policy(load(None), {"runtimes": {"one": "runsc", "two": "runsc"}})
    with pytest.raises(InvalidArgument, match="may be any of one, two, all of the plugin runsc"):
        choose(two, "runtime", "x", asked="io.containerd.runsc.v1")


def test_runtimes_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = policy(load(None))
    shim = tmp_path / "containerd-shim-spin-v2"
    shim.write_text("#!/bin/sh\n")
    with pytest.raises(InvalidArgument, match=rf"{shim} \(named by the client\) is no executable file"):
        choose(rules, "runtime", "x", asked=str(shim))
    shim.chmod(0o755)
    assert choose(rules, "runtime", "x", asked=str(shim)) == (str(shim), "named by the client")
    with pytest.raises(InvalidArgument, match=r"bin/shim \(named by the client\) is a relative path"):
        choose(rules, "runtime", "x", asked="bin/shim")
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    assert choose(rules, "runtime", "x", asked="io.containerd.spin.v2")[0] == str(shim)
    with pytest.raises(InvalidArgument) as caught:
        choose(rules, "runtime", "x", asked="io.containerd.wasm.v1")
    assert caught.value.message == (
        "there is no runtime io.containerd.wasm.v1 (named by the client): the instances here are: runc, gvisor, careful; "
        f"its shim containerd-shim-wasm-v1 is not in /nowhere, {tmp_path}; install it, or name another"
    )


# Mistakes.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[defaults]\nruntime = "rnuc"\n',
            '{file}:3: [defaults] runtime: there is no runtime "rnuc"; did you mean "runc"?',
        ),
        ('[[rules]]\nimage = "*"\n', "{file}:2: the rule 1 says nothing: give it one of runtime, "),
        (
            '[[rules]]\nnetwork = "none"\nforce = true\n',
            "{file}:2: the rule 1 says force, which goes with a runtime alone",
        ),
        ('[[rules]]\nwith_runtime = "a"\nruntime = "runc"\n', "{file}:2: the rule 1 has both with_runtime and runtime"),
        (
            '[[rules]]\nnetwork = "none"\n[[rules]]\nsnapshotter = "nativ"\n',
            '{file}:4: the rule 2: snapshotter: there is no snapshotter "nativ"; did you mean "native"?',
        ),
    ],
)
def test_mistakes_that_the_types_do_not_see(write: Write, text: str, message: str) -> None:
    config = write(f"version = 1\n{text}")
    known = {kind: set(names) for kind, names in NAMES.items()}
    with pytest.raises(InvalidArgument) as caught:
        config.check(known, {("managers", "policy"): plugin})
    assert caught.value.message.startswith(message.format(file=config.source))


def test_the_rules_of_this_file_have_no_mistake(write: Write) -> None:
    write(RULES).check({kind: set(names) for kind, names in NAMES.items()}, {("managers", "policy"): plugin})
    text = 'version = 1\n[[rules]]\nruntime = "io.containerd.runc.v2"\n[[rules]]\nruntime = "/usr/bin/shim"\n'
    write(text).check({"runtimes": {"runc"}}, {("managers", "policy"): plugin})
