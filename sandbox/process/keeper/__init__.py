"""The keeper: one small process per backend that starts every command and leaves none behind.

    owner (asyncio)  --socket-->  keeper  -->  init, one per command  -->  the command and all it starts

It stands apart from the owner for three reasons. A fork of this small single-threaded process costs
less than one of the owner. It outlives a killed owner: the socket then reads end-of-file, on any
platform, and the keeper ends every command and removes the directory. And each command gets an *init*
of its own, which on Linux adopts orphans (``PR_SET_CHILD_SUBREAPER``), so that a daemon that left its
process group is still found and killed; elsewhere only the process group is.

It also runs, each in a child, what must be killable: searches, whose regular expression may take for
ever, and the removal of trees.

This package runs cut off from the owner's import path and environment: its modules import nothing but
the standard library and each other.
"""
