"""The way out of a sandbox: a filtering HTTP proxy for the hosts of an allow-list.

A sandbox has no network, with an allow-list neither. Its commands are told of a proxy on their own
loopback (``http_proxy`` and so on), which is served on the owner's side of it: on a listening socket
that was bound in the sandbox's network namespace and handed out, or on a Unix socket. So there is no
route, no interface and no name server inside, and what does not speak to the proxy reaches nothing.

The proxy takes ``CONNECT`` and plain ``http://`` requests, one a connection. The host and port must be
on the list; then the name is resolved here, once, and the connection made to an address that was
checked: a public one, or one that the list names itself. So a name that leads to this machine, its
private network or the cloud's metadata leads nowhere. Everything else is refused with one line.

What is in a tunnel is not looked at: a server on the list that forwards to others can be asked to.
"""

from turnwise.sandbox.egress.allowed import AllowList
from turnwise.sandbox.egress.proxy import Egress

__all__ = ["AllowList", "Egress"]
