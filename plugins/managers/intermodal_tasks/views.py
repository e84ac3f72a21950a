"""A container as lists show it."""

from __future__ import annotations

import msgspec
from intermodal_core.contracts.managers.store import Container
from intermodal_core.contracts.managers.tasks import ContainerView
from intermodal_core.contracts.runtimes import ProcessState

from intermodal_tasks.tables import RunRow

__all__ = ["view"]


def view(record: Container, row: RunRow | None, state: ProcessState | None) -> ContainerView:
    """Record, last run and task put together; each of the latter may be missing."""
    ended = row.exit if row else None
    if state is not None:
        status = state.status
        exit_code = state.exit_status if status == "stopped" else None
        exited_at = state.exited_at
    else:
        status = "stopped" if ended else "created"
        exit_code = ended.status if ended else None
        exited_at = ended.exited_at if ended else 0
    return ContainerView(
        id=record.id,
        image=record.image,
        status=status,
        pid=state.pid if state is not None and status in ("running", "paused", "created") else 0,
        exit_code=exit_code,
        runtime=record.choice.instance if record.choice else record.runtime,
        snapshotter=record.snapshotter,
        network=",".join(row.networks) if row else "",
        created_at=record.created_at,
        started_at=row.started_at if row else 0,
        exited_at=exited_at,
        labels=record.labels,
        command=_command(record),
    )


class _Process(msgspec.Struct):
    args: list[str] = []


class _Spec(msgspec.Struct):
    process: _Process = msgspec.field(default_factory=_Process)


_decode = msgspec.json.Decoder(_Spec).decode


def _command(record: Container) -> str:
    if record.spec is None:
        return ""
    try:
        return " ".join(_decode(record.spec.value).process.args)
    except msgspec.DecodeError:
        return ""
