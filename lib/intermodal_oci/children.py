"""The labels by which the blob of an index or a manifest refers to what it needs, so that it is not collected."""

from __future__ import annotations

from collections.abc import Collection

from intermodal_oci.model import Index, Manifest

__all__ = ["children_labels"]


def children_labels(document: Index | Manifest, needed: Collection[str] | None = None) -> dict[str, str]:
    """As containerd names them. Of an index only those children whose digests are `needed` (None: all)."""
    if isinstance(document, Index):
        children = [each.digest for each in document.manifests if needed is None or each.digest in needed]
        return {f"containerd.io/gc.ref.content.m.{number}": digest for number, digest in enumerate(children)}
    labels = {"containerd.io/gc.ref.content.config": document.config.digest}
    return labels | {
        f"containerd.io/gc.ref.content.l.{number}": each.digest for number, each in enumerate(document.layers)
    }
