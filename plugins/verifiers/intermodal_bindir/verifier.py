"""Verifier programs: each is told an image by arguments and the descriptor on its input, and says yes by its status.

    PROGRAM -name NAME -digest DIGEST -stdin-media-type application/vnd.oci.descriptor.v1+json

Status 0 accepts; what it prints is the reason. All must accept. The interface is that of containerd's bindir verifiers.
"""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from intermodal_core.contracts.verifiers import Candidate, Evidence, Verdict
from intermodal_core.errors import IntermodalError, Unavailable

if TYPE_CHECKING:
    from intermodal_core.spawner import Spawner

__all__ = ["BinDirVerifier", "programs"]

_MEDIA_TYPE: Final = "application/vnd.oci.descriptor.v1+json"
_REASON: Final = 16 << 10
_AT_ONCE: Final = 8


def programs(directory: Path) -> list[Path]:
    """The programs in a directory, by name; none where there is no such directory."""
    try:
        return sorted(path for path in directory.iterdir() if stat.S_ISREG(path.stat().st_mode))
    except OSError:
        return []


class BinDirVerifier:
    """Implements `intermodal_core.contracts.verifiers.Verifier`; `most` programs at most (below 0: all).

    The directory is read anew for each image. One that is empty by then accepts nothing.
    """

    def __init__(self, directory: Path, spawner: Spawner, *, most: int = 10, timeout: float = 10) -> None:
        self._directory = directory
        self._spawner = spawner
        self._most = most
        self._timeout = timeout

    def verify(self, candidate: Candidate, evidence: Evidence) -> Verdict:
        """See the contract. Raises Unavailable for a program that cannot be run or does not end in time."""
        chosen = programs(self._directory)
        chosen = chosen if self._most < 0 else chosen[: self._most]
        if not chosen:
            return Verdict(False, f"there are no verifier programs in {self._directory}")
        with ThreadPoolExecutor(min(_AT_ONCE, len(chosen)), thread_name_prefix="bindir") as pool:
            verdicts = list(pool.map(lambda program: self._ask(program, candidate), chosen))
        refusals = [verdict for verdict in verdicts if not verdict.accepted]
        if refusals:
            return Verdict(False, "; ".join(verdict.reason for verdict in refusals))
        signers = ", ".join(program.name for program in chosen)
        return Verdict(True, "; ".join(verdict.reason for verdict in verdicts), signers)

    def _ask(self, program: Path, candidate: Candidate) -> Verdict:
        target = candidate.target
        words = ["-name", candidate.name, "-digest", target.digest, "-stdin-media-type", _MEDIA_TYPE]
        try:
            done = self._spawner.run([str(program), *words], msgspec.json.encode(target), self._timeout)
        except IntermodalError as error:
            raise Unavailable(f"the verifier {program} gave no verdict: {error}") from error
        said = " ".join(done.stdout[:_REASON].decode(errors="replace").split())
        return Verdict(done.exit == 0, f"{program.name}: {said or f'status {done.exit}, and no reason'}")
