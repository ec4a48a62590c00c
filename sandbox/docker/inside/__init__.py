"""What runs in the container, on the standard library alone: the resident and how it starts commands.

It is the resident of the namespaces backend (:mod:`turnwise.sandbox.namespaces.resident`) with three
differences. It speaks on its standard input and output, which the Engine connects to the owner. The
container's namespaces are all there are, so a command's init is the subreaper of what the command starts
(:mod:`turnwise.sandbox.process.keeper.commands`) and not PID 1 of a namespace. And it packs and unpacks the
writable directories, because a tmpfs is not part of a committed image.
"""
