"""What waits, once for a coroutine and once for a thread: the only code that the two faces do not share."""

import asyncio
import time
from concurrent.futures import Future
from typing import TypeVar

import grpc
import grpc.aio
from intermodal_core.errors import DeadlineExceeded

T = TypeVar("T")


async def wait_async(future: Future[T], timeout: float | None = None) -> T:
    """The future's result. Raises DeadlineExceeded after `timeout` seconds; the future is then cancelled."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
    except TimeoutError:
        raise DeadlineExceeded(f"Nothing came within {timeout} s") from None


def wait_blocking(future: Future[T], timeout: float | None = None) -> T:
    """The future's result. Raises DeadlineExceeded after `timeout` seconds; the future is then cancelled."""
    try:
        return future.result(timeout)
    except TimeoutError:
        future.cancel()
        raise DeadlineExceeded(f"Nothing came within {timeout} s") from None


async def sleep_async(seconds: float) -> None:
    """Let `seconds` pass."""
    await asyncio.sleep(seconds)


def sleep_blocking(seconds: float) -> None:
    """Let `seconds` pass."""
    time.sleep(seconds)


async def close_async(channel: grpc.aio.Channel) -> None:
    """Close the channel; calls under way end with Cancelled."""
    await channel.close(None)


def close_blocking(channel: grpc.Channel) -> None:
    """Close the channel; calls under way end with Cancelled."""
    channel.close()
