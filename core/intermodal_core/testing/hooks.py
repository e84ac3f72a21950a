"""The conformance kit of hook plugins: subclass `HooksKit`, say how the plugin's object is made, run pytest.

    class TestMine(HooksKit):
        @pytest.fixture
        def factory(self):
            return MyHooks                              # or `lambda: my_module`

Each of its implementations is called as the daemon does, with the values of `samples`: override that for containers of which the plugin
has more to say. An implementation may refuse a sample by an error. A test's name says which rule of
`intermodal_core.contracts.hooks` it holds to: `test_k1_...` is of [K1].
"""

# ruff: noqa: D102 - what a test holds to is the contract's rule that its name gives

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from intermodal_core.contracts import hooks as contract
from intermodal_core.errors import IntermodalError
from intermodal_core.hooks import CoreHooks, Hooks
from intermodal_core.testing.kit import Kit
from intermodal_core.testing.trees import at_once

__all__ = ["Factory", "HooksKit"]

#: Makes the plugin's object, or gives its module.
Factory = Callable[[], Any]

_CONTAINER = contract.ContainerInfo(
    "kit", "one", "docker.io/library/busybox:latest", {"app": "web"}, "runc", "overlayfs"
)
_SPEC = {
    "ociVersion": "1.0.2",
    "process": {"args": ["sh"], "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    "root": {"path": "rootfs"},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "resources": {}},
    "annotations": {},
}


_OWNERS = (contract.ContainerHooks, CoreHooks)
_SPECS = {name: spec for owner in _OWNERS for name, spec in vars(owner).items() if hasattr(spec, "intermodal_spec")}
_VALUE = {name: list(inspect.signature(spec).parameters)[1] for name, spec in _SPECS.items()}
_CHANGING = {name for name, spec in _SPECS.items() if spec.__annotations__["return"] != "None"}


class HooksKit(Kit):
    """The rules of the contract, each a test or several."""

    contracts = (contract,)
    makers = ()
    #: Values for the hooks' arguments, by their names.
    samples: ClassVar[Mapping[str, Any]] = {
        "pull": contract.Pull("kit", "docker.io/library/busybox:latest"),
        "container": _CONTAINER,
        "network": contract.NetworkInfo("none", "eth0", "/run/netns/kit", ("192.0.2.1/24",)),
        "spec": _SPEC,
        "pid": 1,
        "signal": 15,
        "status": 0,
        "containers": [_CONTAINER],
        "kind": "snapshotters",
        "name": "native",
        "state": "ready",
        "reason": "",
    }

    @pytest.fixture
    def factory(self) -> Factory:
        """Makes the plugin's object; to be overridden."""
        raise NotImplementedError("define the fixture `factory`")

    @pytest.fixture
    def implementations(self, factory: Factory) -> Iterator[dict[str, Callable[..., Any]]]:
        """What it implements, by the hook's name, registered as the daemon does: what does not fit is refused there."""
        plugin = factory()
        hooks = Hooks()
        hooks.add_specs(contract.ContainerHooks)
        try:
            hooks.register("kit", plugin)
            assert [str(error) for _, error in hooks.misspelt()] == []
            found = {name: getattr(plugin, attribute) for name, attribute in _implemented(plugin)}
            assert found, "it implements no hook: mark the functions with intermodal_core.hooks.hookimpl"
            yield found
        finally:
            asyncio.run(hooks.close())

    def given(self, name: str, implementation: Callable[..., Any]) -> dict[str, Any]:
        """A copy of the samples that an implementation takes."""
        wanted = inspect.signature(implementation).parameters
        return {argument: copy.deepcopy(self.samples[argument]) for argument in wanted}

    def test_k1_a_change_is_returned(self, implementations: dict[str, Callable[..., Any]]) -> None:
        for name, implementation in implementations.items():
            given = self.given(name, implementation)
            before = copy.deepcopy(given)
            result = _outcome(implementation, given)
            first = _VALUE[name]
            if first in given and name in _CHANGING and result is None:
                assert given[first] == before[first], f"{name} changed its copy and did not return it: nobody sees that"
            for argument in given.keys() - {first}:
                assert given[argument] == before[argument], f"{name} changed {argument}, which is nobody's but its own"

    def test_k2_what_is_returned(self, implementations: dict[str, Callable[..., Any]]) -> None:
        for name, implementation in implementations.items():
            result = _outcome(implementation, self.given(name, implementation))
            if isinstance(result, IntermodalError) or result is None:
                continue
            assert name in _CHANGING, f"{name} returned {result!r}: the hook changes nothing"
            assert isinstance(result, type(self.samples[_VALUE[name]])), f"{name} returned {type(result).__name__}"

    def test_k3_at_once(self, implementations: dict[str, Callable[..., Any]]) -> None:
        for name, implementation in implementations.items():
            alone = _comparable(_outcome(implementation, self.given(name, implementation)))
            outcomes = at_once(lambda _, i=implementation, n=name: _outcome(i, self.given(n, i)))  # type: ignore[misc]
            assert [o for o in map(_comparable, outcomes) if o != alone] == [], f"{name} of many at once"

    def test_k4_it_is_done_when_it_returns(self, implementations: dict[str, Callable[..., Any]]) -> None:
        for name, implementation in implementations.items():
            _outcome(implementation, self.given(name, implementation))  # what it makes once is no leftover
            before = _going_on()
            for _ in range(3):
                _outcome(implementation, self.given(name, implementation))
            assert _going_on() == before, f"{name} left something going on"

    def test_k5_an_error_is_a_sentence(self, implementations: dict[str, Callable[..., Any]]) -> None:
        for name, implementation in implementations.items():
            with suppress(IntermodalError):
                implementation(**self.given(name, implementation))
                continue
            message = str(_outcome(implementation, self.given(name, implementation))).strip()
            assert " " in message, f"{name} raised an error that does not say why: {message!r}"
            assert "\n" not in message, f"{name} raised {message!r}: one sentence, for one line"


def _implemented(plugin: Any) -> Iterator[tuple[str, str]]:
    for attribute in dir(plugin):
        options = getattr(getattr(plugin, attribute, None), "intermodal_impl", None)
        if options is not None:
            yield options.get("specname") or attribute, attribute


def _outcome(implementation: Callable[..., Any], given: dict[str, Any]) -> Any:
    try:
        return implementation(**given)
    except IntermodalError as error:
        return error


def _comparable(outcome: Any) -> Any:
    return (type(outcome), str(outcome)) if isinstance(outcome, Exception) else outcome


def _going_on() -> tuple[set[str], int, list[str]]:
    children = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children") as file:
            children += file.read().split()
    return {thread.name for thread in threading.enumerate()}, len(os.listdir("/proc/self/fd")), children
