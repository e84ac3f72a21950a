"""The JSON Schema accepts what the loader accepts, and refuses what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from intermodal.cli.config import installed
from intermodal.cli.config_schema import schema
from intermodal_core.config import load
from intermodal_core.config_text import toml
from intermodal_core.errors import InvalidArgument

FOUND, PLUGINS = installed()
KINDS = [kind.name for kind in FOUND]
NAMES = {kind: {name for of, name in PLUGINS if of == kind} for kind in KINDS}
SCHEMA = schema(KINDS, PLUGINS)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

values = st.one_of(
    st.booleans(),
    st.integers(-2, 300),
    st.floats(-2, 5000, allow_nan=False).filter(lambda number: number != int(number)),
    st.sampled_from(["", "runc", "/x", "debug", "thread", "0660", "0x", "off", "overlayfs"]),
    st.lists(st.sampled_from(["a", 1]), max_size=2),
    st.dictionaries(st.sampled_from(["a", "binary"]), st.sampled_from(["x", 1]), max_size=2),
)


def keys_of(kind: str, name: str) -> list[str]:
    return [*SCHEMA["$defs"][f"{kind}.{name}"]["properties"], "no_such_key"]


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A file most of whose keys exist, with values of which most are of a wrong type for most."""
    document: dict[str, Any] = {"version": 1}
    core = [
        *(key for key in SCHEMA["properties"] if key not in KINDS and key not in ("imports", "rules")),
        "no_such_key",
    ]
    for key in draw(st.lists(st.sampled_from(core), max_size=1)):
        document[key] = draw(values)
    for kind, name in draw(st.lists(st.sampled_from(sorted(PLUGINS)), max_size=2, unique=True)):
        called = draw(st.sampled_from([name, name, "other"]))
        section = {key: draw(values) for key in draw(st.lists(st.sampled_from(keys_of(kind, name)), max_size=2))}
        if called == "other" or draw(st.booleans()):
            section["plugin"] = draw(st.sampled_from([name, name, "nothing"]))
        document.setdefault(kind, {})[called] = section
    return document


def written(document: dict[str, Any]) -> str:
    """As TOML, tables by their headers."""
    lines = [f"{key} = {toml(value)}" for key, value in document.items() if key not in KINDS]
    for kind in KINDS:
        for name, section in document.get(kind, {}).items():
            lines += [f"[{kind}.{name}]", *(f"{key} = {toml(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def loads(path: Path) -> bool:
    try:
        config = load(path)
        config.take_proxies(FOUND)
        config.check(NAMES, PLUGINS)
    except InvalidArgument:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(documents())
@example({"version": 1, "runtimes": {"gvisor": {"plugin": "runc", "binary": "x"}}})
@example({"version": 1, "runtimes": {"gvisor": {"binary": "x"}}})
@example({"version": 1, "snapshotters": {"native": {"plugin": "overlayfs", "mount_options": []}}})
@example({"version": 1, "defaults": {"verification": "audit"}})
@example({"version": 1, "deadline": 3})
def test_schema_and_loader_agree(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("schema") / "config.toml"
    path.write_text(written(document))
    names = document.get("defaults", {})
    if isinstance(names, dict) and {"runtime", "snapshotter", "network"} & names.keys():
        return  # that an instance of a name is there, no schema can say
    assert VALIDATOR.is_valid(tomllib.loads(path.read_text())) == loads(path), path.read_text()


@pytest.mark.parametrize("rule", ['image = "a*"\nnetwork = "none"', "force = 1", 'imag = "a"', 'verification = "on"'])
def test_rules_are_described(tmp_path: Path, rule: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"version = 1\n[[rules]]\n{rule}\n")
    assert VALIDATOR.is_valid(tomllib.loads(path.read_text())) == loads(path)


def test_the_command_writes_it_and_the_default_config_is_valid() -> None:
    imod = Path(sys.executable).parent / "imod"
    out = {
        name: subprocess.run([imod, "config", name], capture_output=True, text=True, timeout=60, check=True).stdout
        for name in ("schema", "default")
    }
    printed = json.loads(out["schema"])
    jsonschema.Draft202012Validator.check_schema(printed)
    jsonschema.Draft202012Validator(printed).validate(tomllib.loads(out["default"]))
    assert printed["properties"]["log_level"]["reloadable"] is True
    assert "reloadable" not in printed["properties"]["root"]


def test_what_is_in_force_reads_back_proxies_too(tmp_path: Path) -> None:
    imod = Path(sys.executable).parent / "imod"
    path = tmp_path / "config.toml"
    path.write_text(
        'version = 1\n[defaults]\nsnapshotter = "far"\n[proxy_plugins.far]\ntype = "snapshot"\naddress = "/run/x"\n'
    )

    def show(*options: str) -> str:
        command = [str(imod), "config", "show", *options, str(path)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    first = show()
    assert f'address = "/run/x"  # {path}:6' in show("--origin")
    path.write_text(first)
    assert tomllib.loads(show()) == tomllib.loads(first)
    assert tomllib.loads(first)["proxy_plugins"]["far"]["type"] == "snapshot"
