"""The calls that a test made, for the report of one that failed."""

from __future__ import annotations

import functools
import inspect
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["last_calls", "start", "watch", "watched"]

T = TypeVar("T")

_LENGTH = 160
_calls: deque[str] = deque(maxlen=8)
_within = threading.local()


def start() -> None:
    """Forget the calls of the test before."""
    _calls.clear()


def last_calls() -> list[str]:
    """The last calls and what came of each, the latest at the end."""
    return list(_calls)


def watched(make: Callable[..., T], contract: Any) -> Callable[..., T]:
    """`make`, whose instances are watched."""

    @functools.wraps(make)
    def making(*arguments: Any, **keywords: Any) -> T:
        return watch(make(*arguments, **keywords), contract)

    return making


def watch(instance: T, contract: Any) -> T:
    """Note from now on the calls of the contract's methods on `instance`; one that cannot be watched stays as it is."""
    for name in dir(contract):
        method = getattr(instance, name, None)
        if name.startswith("_") or not callable(method) or getattr(method, "_watched", False):
            continue
        noting = _noting_async(name, method) if inspect.iscoroutinefunction(method) else _noting(name, method)
        noting._watched = True  # type: ignore[attr-defined]
        try:
            object.__setattr__(instance, name, noting)
        except (AttributeError, TypeError):
            break  # its class has slots
    return instance


def _noting(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def noting(*arguments: Any, **keywords: Any) -> Any:
        if getattr(_within, "a_call", False):
            return method(*arguments, **keywords)
        _within.a_call = True
        try:
            result = method(*arguments, **keywords)
        except BaseException as error:
            _note(name, arguments, keywords, f"raised {type(error).__name__}: {error}")
            raise
        finally:
            _within.a_call = False
        _note(name, arguments, keywords, f"-> {result!r}")
        return result

    return noting


def _noting_async(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def noting(*arguments: Any, **keywords: Any) -> Any:
        try:
            result = await method(*arguments, **keywords)
        except BaseException as error:
            _note(name, arguments, keywords, f"raised {type(error).__name__}: {error}")
            raise
        _note(name, arguments, keywords, f"-> {result!r}")
        return result

    return noting


def _note(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], outcome: str) -> None:
    given = [*map(_short, arguments), *(f"{key}={_short(value)}" for key, value in keywords.items())]
    _calls.append(f"{name}({', '.join(given)}) {outcome}"[:_LENGTH])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LENGTH // 3 else f"{text[: _LENGTH // 3 - 3]}..."
