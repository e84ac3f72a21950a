"""Writes a plugin's package of the templates, which are packages themselves: plain files, with the names of a `sample`."""

from __future__ import annotations

import difflib
import importlib.util
import keyword
import os
import re
from pathlib import Path
from typing import NamedTuple

from intermodal_core import __version__, discovery

from intermodal.cli.errors import Failure

__all__ = ["KINDS", "TEMPLATES", "Template", "files_of", "write"]

TEMPLATES = Path(__file__).parents[1] / "templates"


class Template(NamedTuple):
    """The group of the kind, the module that holds the plugin proper, what the package is, and whose library it uses."""

    group: str
    library: str
    description: str
    whole: bool = False


#: By KIND as it is typed. `whole`: it stands on libraries of the distribution intermodal, others on those of intermodal-core.
KINDS: dict[str, Template] = {
    "snapshotter": Template("snapshotters", "snapshotter", "Root filesystems of containers, as copies."),
    "runtime": Template("runtimes", "runtime", "Runs containers by a runtime of runc's kind.", whole=True),
    "network": Template("networks", "network", "Connects containers to nothing but themselves."),
    "cni": Template("cni", "cni", "A CNI type that limits how far packets go.", whole=True),
    "content": Template("content", "content", "Keeps blobs as files."),
    "differ": Template("differs", "differ", "Unpacks layers that are compressed by xz.", whole=True),
    "image-source": Template("image_sources", "source", "Images out of directories that are OCI layouts."),
    "verifier": Template("verifiers", "verifier", "Accepts images that a holder of a key has approved."),
    "event-sink": Template("event_sinks", "sink", "Appends a line to a file for each event."),
    "service": Template("services", "service", "Tells the state of the daemon's plugins on a socket."),
    "hook": Template("hooks", "hooks", "Adds to containers' environment and says what may not be pulled."),
}

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def write(kind: str, name: str, directory: str = "") -> Path:
    """Write the package of a plugin, below `directory` or ./intermodal-NAME; returns where. Raises Failure, and then nothing is there."""
    template = KINDS.get(kind)
    if template is None:
        near = difflib.get_close_matches(kind.rstrip("s"), KINDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"KIND is one of {', '.join(KINDS)}"
        raise Failure(f"there is no template for {kind}; {hint}")
    name = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise Failure(f"{name!r} cannot be a plugin's name: lower case letters and digits, with _ between words")
    for point in discovery.find():
        if (point.group, point.name) == (template.group, name):
            raise Failure(f"{point.distribution} has a plugin {template.group}.{name} already: choose another name")
    if importlib.util.find_spec(f"intermodal_{name}") is not None:
        raise Failure(f"a package intermodal_{name} is installed here already: choose another name")
    top = Path(directory or f"intermodal-{name.replace('_', '-')}")
    if top.exists() and (not top.is_dir() or os.listdir(top)):
        raise Failure(f"{top} is there and not empty: choose another place with --dir")
    try:
        for path, text in files_of(kind, name).items():
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).write_text(text)
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from None
    return top


def files_of(kind: str, name: str) -> dict[str, str]:
    """The package's files, by path."""
    template = KINDS[kind]
    place = TEMPLATES / kind
    package = f"src/intermodal_{name}"
    read = {
        "pyproject.toml": TEMPLATES / "package/pyproject.toml",
        "README.md": TEMPLATES / "package/README.md",
        ".gitignore": TEMPLATES / "package/gitignore",
        f"{package}/{template.library}.py": place / f"{template.library}.py",
        f"{package}/plugin.py": place / "plugin.py",
        f"tests/test_{name}.py": place / "test_sample.py",
    }
    values = {
        "{description}": template.description,
        "{group}": template.group,
        "{library}": template.library,
        "{core}": f"intermodal-core[testing]{_fitting()}",
        "{dependency}": f"{'intermodal' if template.whole else 'intermodal-core'}{_fitting()}",
        "{contract}": "1",
        "{use}": (place / "use.md").read_text() + "\n",
    }
    files = {path: _named(_filled(source.read_text(), values), name) for path, source in read.items()}
    files[f"{package}/__init__.py"] = f'"""{template.description}"""\n'
    files[f"{package}/py.typed"] = ""
    return files


def _fitting() -> str:
    """The versions of intermodal-core whose contracts are these ones."""
    major, minor = map(int, __version__.split(".")[:2])
    return f">={major},<{major + 1}" if major else f">=0.{minor},<0.{minor + 1}"


def _filled(text: str, values: dict[str, str]) -> str:
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text


def _named(text: str, name: str) -> str:
    """With the plugin's name wherever the template has `sample`."""
    words = name.split("_")
    text = text.replace("intermodal_sample", f"intermodal_{name}").replace(
        "intermodal-sample", f"intermodal-{'-'.join(words)}"
    )
    text = re.sub(r"\bSample(?=[A-Z])", "".join(word.capitalize() for word in words), text)
    return re.sub(r"(?<![a-z])sample(?![a-z])", name, text)
