"""Sandboxes that are containers of a Docker Engine, on this machine or another.

The process tree (every edge is parenthood)::

    owner (asyncio: backend.py, sandbox.py)  - - hijacked connection of the Engine (wire.py) - .
                                                                                              |
    the Engine                                                                                |
      `- container: no network, read-only, five capabilities, the Engine's seccomp profile |
          `- init (tini)                                                                      |
              `- resident   root, serves its standard input and output (inside/) - - - - - - - '
                  `- init of a command, root
                      `- agent code   uid 1000, no capability, no_new_privs, seccomp

A tool call is a frame to the resident, so the Engine is asked only for what is a container's: start and
removal. The resident ends when its connection does, and with it the container, so a sandbox never outlives
its owner; what is left of it by name is removed by any later or living owner (lease.py).

What can be written to, the workspace, ``/tmp`` and ``/dev/shm``, are tmpfs with a size: a quota that needs no
particular storage driver. They are no part of a commit, so a snapshot is what the resident packs of them.
"""

from turnwise.sandbox.docker.backend import DockerBackend

__all__ = ["DockerBackend"]
