"""Hooks: points at which many plugins may have a say, where a backend is one that is chosen.

Who owns a hook states it as a function marked `hookspec`; a plugin implements it as a plain function marked `hookimpl`,
with the same name and any of its arguments. Matching, order (the last registered first; `tryfirst`, `trylast`) and the
search for misspelt ones are pluggy's. The calls are made here, so wrappers, `firstresult`, history and coroutines are
refused at registration: each implementation runs by itself on its plugin's own threads, timed, with a deadline. One
that fails or is late denies the operation or is logged and passed over, as the spec states; one that is late is not
waited for, and what it returns later is dropped.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, overload

import msgspec
import pluggy

from intermodal_core.background import Background
from intermodal_core.calls import Pool, Statistics
from intermodal_core.config_types import nearest
from intermodal_core.errors import (
    AlreadyExists,
    FailedPrecondition,
    IntermodalError,
    Internal,
    InvalidArgument,
    by_code,
    from_os_error,
)

__all__ = ["CoreHooks", "Hooks", "hookimpl", "hookspec"]

PROJECT = "intermodal"
POLICY = "intermodal_policy"

F = TypeVar("F", bound=Callable[..., Any])
V = TypeVar("V")

log = logging.getLogger("intermodal.hooks")

#: Marks an implementation; takes `tryfirst`, `trylast`, `specname` and `optionalhook`.
hookimpl = pluggy.HookimplMarker(PROJECT)
_mark_spec = pluggy.HookspecMarker(PROJECT)


class _Policy(NamedTuple):
    on_failure: Literal["deny", "allow"]
    deadline: float | None


class _Member(NamedTuple):
    """A registered plugin: its threads, and what config says of it."""

    pool: Pool
    required: bool
    deadline: float | None


@overload
def hookspec(function: F) -> F: ...
@overload
def hookspec(*, on_failure: Literal["deny", "allow"] = "deny", deadline: float | None = None) -> Callable[[F], F]: ...
def hookspec(
    function: Any = None, *, on_failure: Literal["deny", "allow"] = "deny", deadline: float | None = None
) -> Any:
    """Marks the statement of a hook; its docstring says when it is called and with what.

    `on_failure` is what an implementation's error or lateness does: "deny" fails the operation, "allow" is logged.
    `deadline` is in seconds, for each implementation. The value of a changing hook is its first argument.
    """

    def mark(function: F) -> F:
        setattr(function, POLICY, _Policy(on_failure, deadline))
        return _mark_spec(function)

    return mark if function is None else mark(function)


class CoreHooks:
    """The hooks that the core itself calls."""

    @hookspec(on_failure="allow")
    def plugin_changed(self, kind: str, name: str, state: str, reason: str) -> None:
        """Called when a plugin instance got a new state (`imod plugins ls` explains them); `reason` is "" for one that is ready."""


#: Gives the arguments of a greeting.
Greeting = Callable[[], Awaitable[Mapping[str, Any]]]


class Hooks:
    """The hooks of one daemon: what is specified, who implements it, and how long it took."""

    def __init__(self, deadline: float = 10.0, threads: int = 2) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._deadline = deadline
        self._threads = threads
        self._members: dict[str, _Member] = {}
        self._demanded: dict[str, frozenset[str]] = {}
        self._greetings: dict[str, tuple[Greeting, float]] = {}
        self._background = Background(log)
        self._statistics: dict[tuple[str, str], Statistics] = {}
        self.add_specs(CoreHooks)

    # Registration.

    def add_specs(self, owner: Any) -> None:
        """Add the hooks that a module, class or object states.

        Raises InvalidArgument for one that is stated as firstresult, historic or a coroutine, or that an
        implementation registered before does not fit.
        """
        for name in dir(owner):
            options = self._manager.parse_hookspec_opts(owner, name)
            if options is None:
                continue
            function = getattr(owner, name)
            if options.get("firstresult") or options.get("historic"):
                raise _refused("the owner", name, function, "firstresult and historic hooks are not supported")
            if not _is_plain(function):
                raise _refused("the owner", name, function, "a hook is stated by a plain def")
        try:
            self._manager.add_hookspecs(owner)
        except (pluggy.PluginValidationError, ValueError) as error:
            raise InvalidArgument(f"hooks of {owner!r}: {' '.join(str(error).split())}") from error

    def register(
        self,
        name: str,
        plugin: Any,
        *,
        required: bool = False,
        deadline: float | None = None,
        threads: int | None = None,
    ) -> None:
        """Add the implementations of a plugin's module or object. `required` makes every failure of it deny.

        Raises InvalidArgument naming plugin, hook and signature for a wrapper, a coroutine or an argument that the hook
        does not have, and AlreadyExists for a name or a plugin that is registered.
        """
        if name in self._members:
            raise AlreadyExists(f"a hook plugin called {name} is registered already")
        for attribute in dir(plugin):
            options = self._manager.parse_hookimpl_opts(plugin, attribute)
            if options is None:
                continue
            function = getattr(plugin, attribute)
            if options.get("wrapper") or options.get("hookwrapper"):
                raise _refused(name, attribute, function, "wrappers are not supported: write a plain implementation")
            if not _is_plain(function):
                raise _refused(
                    name, attribute, function, "coroutines and generators are not supported: write a plain def"
                )
        try:
            self._manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=name)
            raise InvalidArgument(f"hook plugin {name}: {' '.join(str(error).split())}") from error
        except ValueError as error:
            raise AlreadyExists(f"hook plugin {name}: {error}") from error
        pool = Pool(f"hooks of {name}", threads or self._threads)
        self._members[name] = _Member(pool, required, deadline)
        for hook in self._greetings:
            self._begin_greeting(hook, name)

    def unregister(self, name: str) -> None:
        """Take a plugin's implementations out; calls under way go on. A name that is not registered is let pass."""
        member = self._members.pop(name, None)
        if member is not None:
            self._manager.unregister(name=name)
            member.pool.close()

    def demand(self, plugin: str, guards: Iterable[str] = ()) -> None:
        """From now on refuse what the hooks `guards` guard, or all that deny, while `plugin` is not registered.

        A hook that is named in `guards` must be implemented by it, too.
        """
        self._demanded[plugin] = frozenset(guards)

    def greet(self, hook: str, arguments: Greeting, extra: float = 0.0) -> None:
        """Call `hook` once for each plugin that implements it, those that are there and those to come.

        `arguments` is asked anew for each; `extra` is added to the deadline for each member of its lists, in seconds.
        Must be called on the loop. A failure is treated as the hook states, but denies nothing: it is logged.
        """
        self._greetings[hook] = (arguments, extra)
        for name in list(self._members):
            self._begin_greeting(hook, name)

    async def settled(self) -> None:
        """When every greeting that has begun is over."""
        await self._background.settled()

    def _begin_greeting(self, hook: str, plugin: str) -> None:
        mine = [found for found in self._implementations(hook, demanded=False) if found.plugin_name == plugin]
        for implementation in mine:
            self._background.begin(self._greet(hook, implementation))

    async def _greet(self, hook: str, implementation: pluggy.HookImpl) -> None:
        provide, extra = self._greetings[hook]
        try:
            arguments = await provide()
            many = sum(len(value) for value in arguments.values() if isinstance(value, list))
            await self._call(hook, implementation, arguments, extra=many * extra)
        except IntermodalError as error:
            log.error("%s", error)

    def misspelt(self) -> Iterator[tuple[str, InvalidArgument]]:
        """Each plugin that implements what nobody has stated, with a sentence that has the nearest name."""
        hooks = vars(self._manager.hook)
        stated = [name for name, caller in hooks.items() if caller.has_spec()]
        for name, caller in list(hooks.items()):
            for found in caller.get_hookimpls() if name not in stated else []:
                if not found.optionalhook:
                    why = f"no such hook; {nearest(name, stated)}"
                    yield found.plugin_name, _refused(found.plugin_name, name, found.function, why)

    async def close(self) -> None:
        """Let every thread end; greetings that are under way are given up."""
        await self._background.cancel()
        for name in list(self._members):
            self.unregister(name)

    # Calls.

    async def notify(self, hook: str, **arguments: Any) -> None:
        """Call each implementation of `hook` in order. Raises its error where the failure of one denies."""
        for implementation in self._implementations(hook):
            await self._call(hook, implementation, arguments)

    async def change(self, hook: str, value: V, **arguments: Any) -> V:
        """Let each implementation in order change `value`, the hook's first argument; the value after the last one.

        Each gets a copy of its own and returns a new value of the same type, or None to leave it. Raises as `notify`.
        """
        for implementation in self._implementations(hook):
            spec = getattr(self._manager.hook, hook).spec
            own = _copy(value)
            result = await self._call(hook, implementation, {**arguments, spec.argnames[0]: own}, type(value))
            value = value if result is None else result
        return value

    def implemented(self, hook: str) -> bool:
        """Whether a call of `hook` would do anything, be it refuse: else its arguments need not be gathered."""
        caller = getattr(self._manager.hook, hook, None)
        return bool(self._demanded) or caller is None or bool(caller.get_hookimpls())

    def statistics(self) -> Mapping[tuple[str, str], Statistics]:
        """Calls, errors and seconds, by hook and plugin."""
        return self._statistics

    def _implementations(self, hook: str, demanded: bool = True) -> Iterator[pluggy.HookImpl]:
        caller = getattr(self._manager.hook, hook, None)
        if caller is None or not caller.has_spec():
            raise Internal(f"the hook {hook} is called and nobody has stated it")
        implementations: list[pluggy.HookImpl] = caller.get_hookimpls()
        if demanded and self._demanded:
            self._check_demanded(hook, caller, {implementation.plugin_name for implementation in implementations})
        return reversed(implementations)

    def _check_demanded(self, hook: str, caller: pluggy.HookCaller, present: set[str]) -> None:
        for plugin, guards in self._demanded.items():
            if (hook in guards and plugin not in present) or (
                not guards and plugin not in self._members and _policy(caller).on_failure == "deny"
            ):
                raise FailedPrecondition(
                    f"{hook} is refused: the config requires {plugin} for it, which is not there or does not implement "
                    f"it; see imod plugins ls, or take required = true out of [{plugin}]"
                )

    async def _call(
        self,
        hook: str,
        implementation: pluggy.HookImpl,
        arguments: Mapping[str, Any],
        returns: type | None = None,
        extra: float = 0.0,
    ) -> Any:
        plugin = implementation.plugin_name
        member = self._members.get(plugin)
        if member is None:
            return None  # taken out since the call began
        policy = _policy(getattr(self._manager.hook, hook))
        statistics = self._statistics.setdefault((hook, plugin), Statistics())
        missing = [name for name in implementation.argnames if name not in arguments]
        if missing:
            raise Internal(f"the hook {hook} is called without {', '.join(missing)}")
        given = [arguments[name] for name in implementation.argnames]
        deadline = (member.deadline or policy.deadline or self._deadline) + extra
        began = time.perf_counter()
        failure: IntermodalError | None = None
        result = None
        try:
            result = await member.pool.run(implementation.function, *given, deadline=deadline)
            if returns is not None and result is not None and not isinstance(result, returns):
                failure = Internal(f"hook {hook} of {plugin} returned {type(result).__name__}, not {returns.__name__}")
        except IntermodalError as error:
            failure = by_code(error.code, f"hook {hook} of {plugin}: {error}")
            failure.__cause__ = error
        except OSError as error:
            failure = from_os_error(error, f"hook {hook} of {plugin}")
            failure.__cause__ = error
        except Exception as error:
            failure = Internal(f"hook {hook} of {plugin} raised {type(error).__name__}: {error}")
            failure.__cause__ = error
        seconds = time.perf_counter() - began
        statistics.add(seconds, failure is not None)
        log.debug("hook %s of %s: %.2f ms", hook, plugin, seconds * 1e3)
        if failure is None:
            return result
        if member.required or policy.on_failure == "deny":
            raise failure
        log.warning("%s; passed over", failure, exc_info=failure if isinstance(failure, Internal) else None)
        return None


def _policy(caller: pluggy.HookCaller) -> _Policy:
    assert caller.spec is not None
    policy: _Policy = getattr(caller.spec.function, POLICY, _Policy("deny", None))
    return policy


def _is_plain(function: Any) -> bool:
    return not (
        inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
        or inspect.isgeneratorfunction(function)
    )


def _refused(plugin: str, hook: str, function: Any, why: str) -> InvalidArgument:
    return InvalidArgument(f"hook {hook}{inspect.signature(function)} of {plugin}: {why}")


def _copy(value: V) -> V:
    if isinstance(value, msgspec.Struct) or dataclasses.is_dataclass(value):
        try:
            return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))
        except (TypeError, msgspec.ValidationError):
            pass  # holds something that does not cross a process boundary
    return copy.deepcopy(value)
