"""Signals as people write them."""

import signal as signals

from intermodal_core.errors import InvalidArgument


def number(signal: int | str) -> int:
    """The number of `15`, "15", "TERM" or "SIGTERM". Raises InvalidArgument."""
    text = str(int(signal)) if isinstance(signal, int) else signal.strip().upper()
    if text.isdecimal() and 0 < int(text) <= signals.SIGRTMAX:
        return int(text)
    name = text if text.startswith("SIG") else "SIG" + text
    try:
        return int(signals.Signals[name])
    except KeyError:
        raise InvalidArgument(f"There is no signal {signal!r}; write a number or a name such as TERM") from None
