"""Our shim: a forked process that holds a container, its stdio and its exit status while daemons come and go.

`shim` is what the spawner forks; `driver` is the daemon's side. Nothing is imported here.
"""
