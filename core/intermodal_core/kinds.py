"""Kinds of plugin: data, found by the entry-point group `intermodal.kinds`; the core knows none by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Kind"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What the registry must know of a kind.

    `contract` is the version of its contract and `oldest` the oldest one that is still accepted. Of a `single` kind
    exactly one instance is in use; of an `opt_in` kind those that have a section in the config. `eager` kinds are made ready
    at start, others when first required. Calls on a `guarded` kind go through the core: on the plugin's own threads, timed,
    with a deadline in seconds that a section of the config may change; `unbounded` names methods that wait for the world
    and have none; `close` the one, if any, that ends an instance. An instance of a `lasting` kind serves what it made even
    after another has replaced it. `interface` is the contract as "module:Class". `specs` names, likewise, the hooks that
    instances of the kind implement. `attributes` is for whoever presents kinds to others.
    """

    name: str
    interface: str = ""
    specs: str = ""
    contract: int = 1
    oldest: int = 1
    single: bool = False
    opt_in: bool = False
    eager: bool = False
    guarded: bool = True
    deadline: float = 60.0
    threads: int = 4
    unbounded: tuple[str, ...] = ()
    close: str = ""
    lasting: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)
