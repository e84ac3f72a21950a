"""What the spawner preloads and forks; loading it readies the code. Only a spawner imports it."""

from intermodal_shim.main import main
from intermodal_shim.warm import rehearse

__all__ = ["main"]

rehearse()
