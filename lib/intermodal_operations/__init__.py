"""Crash-safe changes of several steps.

An `Operation` names its steps; each has `do`, an idempotent `undo`, and `seen`. A `Runner` writes one row with the
operation's state before the first step, runs the steps in order, and removes the row in the transaction that records the
result. Whatever happens between is undone: on an exception or a cancellation at once, after a crash by `recover` at the
next start.
"""

from intermodal_operations.model import Operation, Step, Stuck, Timing
from intermodal_operations.runner import Runner

__all__ = ["Operation", "Runner", "Step", "Stuck", "Timing"]
