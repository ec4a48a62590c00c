"""What every small root has: links into ``/usr``, and of ``/etc`` what programs need and tells of nobody."""

LINKS = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"]
"""Folders of the root that are links into ``/usr`` in today's distributions."""

COPIED = ["ld.so.cache", "alternatives", "localtime", "mime.types"]
CERTIFICATES = ["ssl/certs", "pki/tls/certs", "pki/ca-trust/extracted"]
"""Of the authorities that a server on an allow-list is known by, where distributions have them."""
WRITTEN = {
    "passwd": "root:x:0:0::/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hostname": "sandbox\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "pam.d/other": "auth required pam_rootok.so\n"
    + "".join(f"{kind} required pam_permit.so\n" for kind in ("account", "password", "session")),
}
