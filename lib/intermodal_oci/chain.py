"""Chain ids: the names of stacks of layers, and so the keys of unpacked snapshots.

As the OCI image specification defines them (image config, "Layer ChainID"): the first layer's is its diff
id, a further one's is the digest of the chain id below it, a space, and its own diff id.
"""

import hashlib
from collections.abc import Iterable

from intermodal_oci.references import validate_digest

__all__ = ["chain_ids"]


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The chain id of each layer, base layer first; the last one names the whole root file system.

    Args:
        diff_ids: digests of the uncompressed layers, `sha256:HEX`, base layer first.

    Raises:
        InvalidArgument: a diff id is no digest.
    """
    chain: list[str] = []
    for diff_id in diff_ids:
        validate_digest(diff_id)
        if chain:
            diff_id = "sha256:" + hashlib.sha256(f"{chain[-1]} {diff_id}".encode()).hexdigest()
        chain.append(diff_id)
    return chain
