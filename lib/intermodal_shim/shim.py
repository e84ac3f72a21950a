"""What the spawner preloads and forks; loading it readies the code. Only a spawner imports it."""

from intermodal_shim.warm import rehearse
from intermodal_shim.zygote import zygote

__all__ = ["zygote"]

rehearse()
