"""Resource limits as people write them: `--memory 64m`, `--cpus 1.5`."""

import math
from typing import Final

from intermodal_core.errors import InvalidArgument

__all__ = ["CPU_PERIOD", "MIN_MEMORY", "check_memory", "cpu_quota", "parse_cpus", "parse_memory"]

CPU_PERIOD: Final = 100_000
"""Microseconds over which a quota counts: the kernel's default."""
MIN_MEMORY: Final = 4 << 20
"""With less no runtime gets as far as the container's first program."""

_MIN_QUOTA: Final = 1_000  # the kernel takes no less than a millisecond
_UNITS: Final = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def parse_memory(text: str) -> int:
    """Bytes for `67108864`, `64m`, `64MiB`, `1.5g`; units are powers of 1,024. Raises InvalidArgument."""
    number = text.strip().lower()
    unit = number.lstrip("0123456789.")
    number = number[: len(number) - len(unit)]
    scale = _UNITS.get(unit.removesuffix("ib") if len(unit) == 3 else unit.removesuffix("b") or unit)
    if scale is None or len(number) > 20 or number.count(".") > 1 or not number.strip("."):
        raise InvalidArgument(f"Invalid amount of memory {text[:100]!r}; write bytes or a number with k, m or g")
    return check_memory(int(float(number) * (1 << scale)) if "." in number else int(number) << scale)


def check_memory(size: int) -> int:
    """Return `size` in bytes, or raise InvalidArgument where no container can have so little or so much."""
    if not MIN_MEMORY <= size < 1 << 63:
        raise InvalidArgument(f"A memory limit of {size} bytes cannot be set; the least is {MIN_MEMORY} (4m)")
    return size


def parse_cpus(text: str) -> float:
    """A number of processors such as `0.5`. Raises InvalidArgument."""
    try:
        cpus = float(text)
    except ValueError:
        raise InvalidArgument(f"Invalid number of processors {text[:100]!r}; write a number such as 1.5") from None
    cpu_quota(cpus)
    return cpus


def cpu_quota(cpus: float) -> int:
    """Microseconds of processor time a CPU_PERIOD. Raises InvalidArgument where the kernel takes no such quota."""
    if not math.isfinite(cpus) or not _MIN_QUOTA <= round(cpus * CPU_PERIOD) < 1 << 40:
        raise InvalidArgument(f"Invalid number of processors {cpus}; the least is {_MIN_QUOTA / CPU_PERIOD}")
    return round(cpus * CPU_PERIOD)
