"""From gRPC's errors to the project's: an exception by meaning, with the daemon's own sentence."""

from typing import Any

from intermodal_core.errors import Cancelled, DeadlineExceeded, IntermodalError, Unavailable, by_code


def never_sent(error: Any) -> bool:
    """Whether a call (`grpc.RpcError`) failed for want of a connection, so that it can be made again whatever it does."""
    return int(error.code().value[0]) == Unavailable.code and "failed to connect" in str(error.details())


def from_rpc(error: Any, address: str) -> IntermodalError:
    """The exception for a failed call (`grpc.RpcError`); one that never reached a daemon says so."""
    code, details = int(error.code().value[0]), str(error.details() or error.code().name)
    if never_sent(error):
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
