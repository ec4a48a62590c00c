"""Sandboxes without isolation: for trusted tasks on macOS, hosted notebooks and restricted pods.

A sandbox is a private temporary directory. The paths of its calls (``/workspace/...``) are mapped into
it and refused when they lead out; a command runs *in* it with a minimal environment, in processes that
all end with it, but nothing stops the command from going elsewhere: it is the owner, on the owner's
machine, with the owner's network. For commands the directory is ``$HOME``, and the working directory;
there is no ``/workspace``, so they should use relative paths. Of the limits, the output's, a file's size
and each process's memory hold. A snapshot is a copy.

What is lost is in :meth:`ProcessBackend.probe` and in a warning in the log at each start.
"""

from turnwise.sandbox.process.backend import ProcessBackend

__all__ = ["ProcessBackend"]
