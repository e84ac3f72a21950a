"""From gRPC's errors to the project's: an exception by meaning, with the daemon's own sentence."""

from typing import Any

from intermodal_core.errors import Cancelled, DeadlineExceeded, IntermodalError, Unavailable, by_code


def from_rpc(error: Any, address: str) -> IntermodalError:
    """The exception for a failed call (`grpc.RpcError`); one that never reached a daemon says so."""
    code, details = int(error.code().value[0]), str(error.details() or error.code().name)
    if code == Unavailable.code and "connect" in details:
        return Unavailable(
            f"No daemon answers at {address}; start it, or give its socket in INTERMODAL_ADDRESS ({details})"
        )
    if code == IntermodalError.code:
        # containerd passes on what a shim says, and with it a context's end as an unknown error.
        if details.startswith("context deadline exceeded"):
            return DeadlineExceeded(details)
        if details.startswith("context canceled"):
            return Cancelled(details)
    return by_code(code, details)
