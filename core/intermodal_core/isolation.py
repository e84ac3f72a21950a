"""The daemon's side of `isolation = "process"`: a plugin's instance in a supervised process of its own.

The process is started through the spawner, imports the plugin (this one never does) and is called by `peer`. A call of a
plain method that outlives its deadline ends the process; so does the process itself by dying. It is started again with
back-off, and until it is up calls fail at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from intermodal_core.child import UNKNOWN, Child, kill_group
from intermodal_core.errors import DeadlineExceeded, IntermodalError, Internal, PluginSkipped, Unavailable
from intermodal_core.events import EventBus
from intermodal_core.hooks import hookimpl
from intermodal_core.isolated import Constructed, Hook, Host, Registration, Start, attributes_of, contract_of
from intermodal_core.loading import LoadError, load_attribute
from intermodal_core.peer import Method, Peer, Target, methods_of
from intermodal_core.plugin import Plugin
from intermodal_core.spawner import Spawner, interpreter

if TYPE_CHECKING:
    from intermodal_core.config import Section
    from intermodal_core.registry import Record, Registry

__all__ = ["Process", "process_of"]

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 60.0
_STEADY: Final = 30.0  # seconds after which a process that dies is no longer one that dies again
_ANSWER: Final = 5.0  # seconds for the loop of a plugin whose coroutine was late to show that it turns

_HOST = methods_of(Host)
_CODE = "from intermodal_core.isolated import main; main(3)"


class _StandIn:
    """Stands for the instance: it has the contract's methods, as coroutine functions, and is entered and left as one is."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def __aenter__(self) -> Self:
        await self._process.watch()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._process.stop()

    def __getattr__(self, name: str) -> Any:
        return self._process.member(name)


class Process:
    """A plugin's process; `stand_in` stands for the instance.

    `find` is what the process may call here, `changed` is called when the
    process goes or is there again. `restarts` and `last_error` are for those who look after it.
    """

    def __init__(self, id: str, start: Start, spawner: Spawner, find: Target, changed: Callable[[], None]) -> None:
        self.restarts = 0
        self.last_error = ""
        self.stand_in = _StandIn(self)
        self._id = id
        self._start = start
        self._spawner = spawner
        self._find = find
        self._changed = changed
        self._methods = contract_of(start.kind)
        self._threads = asyncio.Semaphore(start.threads)
        self._log = logging.getLogger(f"intermodal.{id}")
        self._child: Child | None = None
        self._peer: Peer
        self._up = False
        self._why = ""
        self._hooks: dict[str, Hook] = {}
        self._attributes: dict[str, Any] = {}
        self._supervisor: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()

    @property
    def pid(self) -> int:
        """The process's id, 0 while there is none."""
        return self._child.pid if self._child and self._up else 0

    @property
    def trouble(self) -> str:
        """Why it cannot be called now, a sentence; "" where it can."""
        return "" if self._up else f"{self._id} is not up: {self.last_error or 'it was stopped'}"

    # Making.

    async def load(self) -> Plugin[Any]:
        """Start the process and import the plugin there. Raises LoadError."""
        registration = await self._begin()
        return Plugin(
            _made_elsewhere,
            requires=registration.requires,
            forked=registration.forked,
            contract=registration.contract,
            capabilities=registration.capabilities,
            exports=registration.exports,
            annotations=registration.annotations,
        )

    async def check(self, section: Section) -> None:
        """Check a section of the config for it. Raises InvalidArgument, LoadError."""
        await self._ask("check", self._start.deadline, pickle.dumps(section))

    async def construct(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Make the instance; returns its options in force and what it exports.

        Raises LoadError, PluginSkipped, InvalidArgument.
        """
        try:
            made: Constructed = await self._ask("construct", 3 * self._start.deadline)
        except BaseException:
            await self._reap()
            raise
        self._hooks = made.hooks
        types = attributes_of(self._start.kind)
        self._attributes = {name: msgspec.convert(value, types[name]) for name, value in made.attributes.items()}
        self._up = True
        return made.options, made.exports

    def hooks(self) -> object:
        """What stands for the instance's implementations of hooks. Raises LoadError for one that cannot cross."""
        loop = asyncio.get_running_loop()
        members: dict[str, Any] = {}
        for name, hook in self._hooks.items():
            if name not in self._methods:
                raise LoadError("isolation", f"it implements {name}, which cannot be called in another process")

            call = partial(self._call_hook, loop, name)
            given = ", ".join(argument for argument in hook.arguments if argument.isidentifier())
            # pluggy reads the names of arguments off a function's code.
            function = eval(
                f"lambda {given}: call(dict({', '.join(f'{x}={x}' for x in hook.arguments)}))", {"call": call}
            )
            members[name] = staticmethod(hookimpl(**hook.options)(function))
        return type("Implementations", (), members)()

    def _call_hook(self, loop: asyncio.AbstractEventLoop, name: str, arguments: dict[str, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(getattr(self.stand_in, name)(**arguments), loop).result()

    async def _begin(self) -> Registration:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._child = await self._spawner.spawn_async(interpreter(_CODE), fds={3: theirs.fileno()})
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._peer = Peer(ours, self._find)
        try:
            registration: Registration = await self._ask(
                "load", 2 * self._start.deadline, list(sys.path), pickle.dumps(self._start)
            )
        except BaseException:
            await self._reap()
            raise
        return registration

    async def _ask(self, name: str, within: float, *arguments: Any) -> Any:
        """A call of the process itself. Raises what it raises; LoadError where it does not answer or dies."""
        assert self._child is not None
        try:
            async with asyncio.timeout(within):
                return await self._peer.call("itself", name, _HOST[name], arguments, {})
        except TimeoutError:
            raise LoadError("hung", f"its process did not {name} it within {within:g} s") from None
        except Unavailable:
            kill_group(self._child)
            status = await self._child.wait_async()
            raise LoadError("ended", f"its process {_how(status)} while it was to {name} it") from None

    # Watching.

    async def watch(self) -> None:
        """From now on start it again when it ends."""
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """End the instance, then the process. Raises what the instance raises."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        if not self._up:
            if self._child is not None:
                await self._reap()
            return
        self._up = False
        try:
            await self._peer.call("itself", "stop", _HOST["stop"], (), {})
        finally:
            await self._reap()

    async def _supervise(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            began = asyncio.get_running_loop().time()
            status = await self._ended()
            if asyncio.get_running_loop().time() - began > _STEADY:
                pause = _FIRST_PAUSE
            self._down(self._why or f"its process {_how(status)}")
            self._why = ""
            while not self._up:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                self.restarts += 1
                try:
                    await self._begin()
                    await self.construct()
                    self._log.warning("is there again")
                    self._changed()
                except PluginSkipped as skip:
                    self._down(skip.reason)
                except (LoadError, IntermodalError) as error:
                    self._down(str(error))

    async def _ended(self) -> int:
        """The status of the process once it ends; one that hangs up is ended."""
        assert self._child is not None
        gone = asyncio.create_task(self._peer.ended.wait())
        dead = asyncio.create_task(self._child.wait_async())
        try:
            await asyncio.wait({gone, dead}, return_when=asyncio.FIRST_COMPLETED)
            if not dead.done():
                await asyncio.wait({dead}, timeout=_ANSWER)
            kill_group(self._child)
            status = await dead
            self._peer.close(f"{self._id} has ended")
            return status
        finally:
            gone.cancel()
            dead.cancel()

    def _down(self, why: str) -> None:
        self._up = False
        self.last_error = why
        self._log.error("%s; it is started again", why)
        self._changed()

    async def _reap(self) -> None:
        assert self._child is not None
        self._peer.close(f"{self._id} was stopped")
        kill_group(self._child)
        await self._child.wait_async()
        self._child.close()
        self._child = None

    def _end(self, why: str) -> None:
        """End a process that hangs; the supervisor starts it again."""
        if self._up and self._child is not None:
            self._up = False
            self._why = why
            kill_group(self._child)

    # Calls.

    def member(self, name: str) -> Any:
        """A method, or a plain attribute, of the instance's. Raises AttributeError for one that is not in the contract."""
        if name in self._attributes:
            return self._attributes[name]
        if name not in self._methods:
            raise AttributeError(
                f"{self._id} runs in a process of its own, which has no {name}: it is not in the contract"
            )
        method = self._methods[name]
        deadline = None if name in self._start.kind.unbounded else self._start.limit
        work = self._plain if method.plain else self._coroutine

        async def call(*arguments: Any, **keywords: Any) -> Any:
            if not self._up:
                raise Unavailable(f"{self.trouble}; it is started again, try later")
            return await work(name, method, deadline, arguments, keywords)

        return call

    async def _plain(self, name: str, method: Method, deadline: float | None, *call: Any) -> Any:
        """On a thread there. It goes on when the caller gives up, and its deadline with it."""
        task = asyncio.create_task(self._bounded(name, method, deadline, *call))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(method.drop)
            raise

    async def _bounded(self, name: str, method: Method, deadline: float | None, *call: Any) -> Any:
        where = f"{self._id}.{name}"
        try:
            await asyncio.wait_for(self._threads.acquire(), deadline)
        except TimeoutError:
            raise DeadlineExceeded(f"{where} waited for a free thread for {deadline:g} s") from None
        try:
            async with asyncio.timeout(deadline):  # its own time: who waited for it must not end it sooner
                return await self._peer.call("plugin", name, method, *call)
        except TimeoutError:
            why = f"{where} did not return within {deadline:g} s"
            self._end(f"{why}, and its process was ended")
            raise DeadlineExceeded(f"{why}; its process was ended, and the outcome is unknown") from None
        finally:
            self._threads.release()

    async def _coroutine(self, name: str, method: Method, deadline: float | None, *call: Any) -> Any:
        """On the loop there, cancelled at the deadline; only a loop that no longer turns is the process's end."""
        try:
            async with asyncio.timeout(deadline):
                return await self._peer.call("plugin", name, method, *call)
        except TimeoutError:
            task = asyncio.create_task(self._check(f"{self._id}.{name}"))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)
            raise DeadlineExceeded(
                f"{self._id}.{name} did not return within {deadline:g} s; the outcome is unknown"
            ) from None

    async def _check(self, where: str) -> None:
        with contextlib.suppress(Unavailable):
            try:
                async with asyncio.timeout(_ANSWER):
                    await self._peer.call("itself", "alive", _HOST["alive"], (), {})
            except TimeoutError:
                self._end(f"{where} blocked its loop, and its process was ended")


def process_of(registry: Registry, record: Record) -> Process:
    """The process for an instance of the registry's, not started yet. Raises LoadError for a kind that stays in here."""
    root, state = registry.directories(record)
    kind, section, core = (
        registry.kinds[record.kind],
        record.section,
        registry.config.core,
    )
    if not (kind.guarded and kind.interface) and not kind.specs:
        raise LoadError(
            "isolation",
            f"plugins of the kind {kind.name} run within the daemon",
            f'take isolation = "process" out of [{record.id}]',
        )
    assert record.found is not None
    interfaces = {each.name: each.interface for each in registry.kinds.values() if each.guarded and each.interface}
    start = Start(
        found=record.found,
        kind=kind,
        section=section,
        root=root,
        state=state,
        address=registry.address,
        deadline=core.plugin_deadline,
        limit=section.common.deadline or kind.deadline,
        threads=section.common.threads or kind.threads,
        log_level=logging.getLogger("intermodal").getEffectiveLevel(),
        interfaces=interfaces,
    )

    async def find(target: str, name: str) -> tuple[Callable[..., Awaitable[Any]], Method]:
        if (target, name) == ("events", "publish"):

            async def publish(*arguments: Any, **keywords: Any) -> Any:
                return registry.events.publish(*arguments, **keywords)

            return publish, Method(EventBus.publish)
        wanted, _, instance = target.partition(".")
        method = methods_of(load_attribute(interfaces[wanted]))[name]
        return getattr(registry.instance(wanted, instance), name), method

    return Process(record.id, start, registry.spawner, find, registry.changed)


def _made_elsewhere(context: Any) -> Any:
    raise Internal("this plugin's instance is made in a process of its own")


def _how(status: int) -> str:
    if status == UNKNOWN:
        return "ended with the spawner"
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
