"""Sandboxes made of Linux namespaces: no daemon, no image, as root or as an ordinary user.

The process tree (every edge is parenthood; every box but the owner is one of the files here)::

    owner (asyncio: backend.py, box.py, link.py)
      `- janitor    waits for the owner's death, then kills the hub and removes the cgroups
          `- hub    PID 1 of a private pid + mount namespace; holds every layer; forks residents
              `- resident   one per episode; PID 1 of namespaces of its own; serves one socket
                  `- exec-init   one per command or shell; PID 1 of a nested pid + mount namespace
                      `- agent code   no capability, no_new_privs, seccomp, cgroup or rlimits

One mechanism serves create, recycle, restore, snapshot and fork: start a resident over a list of
read-only layers and a fresh tmpfs. Only the list differs, so isolation between episodes rests on
fresh namespaces and never on cleaning.
"""

from turnwise.sandbox.namespaces.backend import NamespacesBackend

__all__ = ["NamespacesBackend"]
