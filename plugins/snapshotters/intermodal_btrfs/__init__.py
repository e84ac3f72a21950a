"""Snapshots as btrfs subvolumes."""
