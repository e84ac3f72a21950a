"""The policy manager: which runtime, snapshotter, network and verification an operator's config gives, and why.

Vocabulary. A *subject* is what is chosen. What a client names is *asked*. A *rule* is an entry of `[[rules]]`; of those that
match and say something of the subject the first counts. A choice is made in this order: a rule that says `force` (runtime
only: a stock client has prepared its snapshot already), what was asked, the label that somebody gave the namespace, a
rule, `[defaults]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

__all__ = ["KINDS", "LABELS", "SUBJECTS", "Considered", "Explained", "Policy", "Subject"]

Subject = Literal["runtime", "snapshotter", "network", "verification"]

SUBJECTS: tuple[Subject, ...] = ("runtime", "snapshotter", "network", "verification")

#: Labels of a namespace by which clients of containerd, and we, know what is used where nobody names anything.
LABELS: Mapping[Subject, str] = {
    "runtime": "containerd.io/defaults/runtime",
    "snapshotter": "containerd.io/defaults/snapshotter",
}


#: The kind whose instances a subject names.
KINDS: Mapping[Subject, str] = {"runtime": "runtimes", "snapshotter": "snapshotters", "network": "networks"}


class Considered(msgspec.Struct, frozen=True):
    """One voice that was heard: whose it is, with its line of the config; what it says; whether it applies and counts."""

    source: str
    says: str
    applies: bool
    counts: bool


class Explained(msgspec.Struct, frozen=True):
    """What is chosen for a subject, the sentence that says who chose it, and all that was considered, in order.

    `error` is why nothing can be chosen, "" otherwise.
    """

    subject: Subject
    value: str
    why: str
    considered: tuple[Considered, ...]
    error: str = ""


class Policy(Protocol):
    """The manager."""

    async def choose(
        self,
        subject: Subject,
        namespace: str,
        image: str = "",
        labels: Mapping[str, str] | None = None,
        asked: str = "",
        *,
        runtime: str = "",
        given: Mapping[str, str] | None = None,
    ) -> tuple[str, str]:
        """The value to use and the sentence that says who chose it.

        `runtime` is the instance that the same container runs under, for rules that tell runtimes apart; `given` the
        labels that the namespace's record has. A runtime may be named as containerd's clients name it
        (`io.containerd.runc.v2`), or by the absolute path of a shim; the value is an instance's name, or the absolute path of a
        shim that no instance stands for. Raises InvalidArgument for a name that nothing has, naming what there is, where it
        was sought, and the line of the config that says so.
        """

    async def explain(
        self,
        namespace: str,
        image: str = "",
        labels: Mapping[str, str] | None = None,
        asked: Mapping[str, str] | None = None,
        *,
        given: Mapping[str, str] | None = None,
    ) -> list[Explained]:
        """What `choose` gives for each subject, and why; `asked` is by subject."""

    def labels(self, namespace: str) -> dict[str, str]:
        """The labels of `LABELS` that rules for the whole of a namespace, and `[defaults]`, give it."""
