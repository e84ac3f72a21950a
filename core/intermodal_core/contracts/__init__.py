"""One module a kind: its interface and its plain dataclasses.

What every contract keeps to:

- Only msgspec-encodable dataclasses, and byte streams or file descriptors that are declared as such, cross it; so each
  backend contract can cross a process boundary.
- Methods are `def` where the work is syscalls and short commands, `async def` where the kind is sockets by nature.
- A rule in a docstring carries an id (`[S12]`); each has a test in the kind's kit.
- Times are integers, nanoseconds since the epoch, UTC. Sizes are bytes. Digests are `sha256:` and 64 hex digits.
- Errors are those of `intermodal_core.errors`, raised by meaning.
- A method may be called from any thread, and several at once, unless it says otherwise.
"""
