"""A ``.git`` of exactly one commit, written byte by byte.

The agent's machine gets the repository at its base as files; a history of the real one would hold the
repair. So none is copied, and no git runs: the objects of one commit are packed here. There are no remotes,
no tags, no reflog, and every name and date is the same for all.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from binascii import crc32
from collections.abc import Mapping

_WHO = b"turnwise <turnwise@localhost> 946684800 +0000"
_CONFIG = b"[core]\n\trepositoryformatversion = 0\n\tfilemode = false\n\tbare = false\n"
_KINDS = {"commit": 1, "tree": 2, "blob": 3}
FILE, PROGRAM, TREE = 0o100644, 0o100755, 0o040000


def one_commit(files: Mapping[str, bytes], executable: frozenset[str] = frozenset()) -> dict[str, bytes]:
    """The files below ``.git``, by path, of a repository whose only commit holds ``files``."""
    objects: dict[bytes, tuple[str, bytes]] = {}
    blobs = {path: _add(objects, "blob", data) for path, data in sorted(files.items())}
    tree = _tree(objects, blobs, executable)
    body = b"tree %s\nauthor %s\ncommitter %s\n\nBase\n" % (tree.hex().encode(), _WHO, _WHO)
    commit = _add(objects, "commit", body)
    pack, index = _pack(objects)
    name = hashlib.sha1(b"".join(sorted(objects))).hexdigest()
    return {
        ".git/HEAD": b"ref: refs/heads/main\n",
        ".git/config": _CONFIG,
        ".git/refs/heads/main": commit.hex().encode() + b"\n",
        f".git/objects/pack/pack-{name}.pack": pack,
        f".git/objects/pack/pack-{name}.idx": index,
        ".git/index": _index(files, blobs, executable),
    }


def _sha(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def _add(objects: dict[bytes, tuple[str, bytes]], kind: str, data: bytes) -> bytes:
    name = _sha(b"%s %d\0" % (kind.encode(), len(data)) + data)
    objects[name] = kind, data
    return name


def _tree(
    objects: dict[bytes, tuple[str, bytes]], blobs: Mapping[str, bytes], executable: frozenset[str]
) -> bytes:
    """The tree of a folder, its folders first."""
    entries: dict[bytes, tuple[int, bytes]] = {}
    below: dict[str, dict[str, bytes]] = {}
    programs: dict[str, set[str]] = {}
    for path, blob in blobs.items():
        head, _, rest = path.partition("/")
        if rest:
            below.setdefault(head, {})[rest] = blob
            if path in executable:
                programs.setdefault(head, set()).add(rest)
        else:
            entries[head.encode()] = PROGRAM if path in executable else FILE, blob
    for head, inner in below.items():
        entries[head.encode() + b"/"] = TREE, _tree(objects, inner, frozenset(programs.get(head, ())))
    lines = (
        b"%o %s\0%s" % (mode, name.removesuffix(b"/"), blob) for name, (mode, blob) in sorted(entries.items())
    )
    return _add(objects, "tree", b"".join(lines))


def _pack(objects: Mapping[bytes, tuple[str, bytes]]) -> tuple[bytes, bytes]:
    """All objects in one file, and the index of it (version 2 of both)."""
    parts = [b"PACK" + struct.pack(">LL", 2, len(objects))]
    at = len(parts[0])
    places: dict[bytes, tuple[int, int]] = {}
    for name, (kind, data) in objects.items():
        entry = _header(_KINDS[kind], len(data)) + zlib.compress(data)
        places[name] = at, crc32(entry)
        parts.append(entry)
        at += len(entry)
    pack = b"".join(parts)
    pack += _sha(pack)
    names = sorted(places)
    counts = [0] * 256
    for name in names:
        counts[name[0]] += 1
    totals = [sum(counts[: end + 1]) for end in range(256)]
    index = b"\xfftOc" + struct.pack(">L256L", 2, *totals) + b"".join(names)
    index += struct.pack(f">{len(names)}L", *(places[name][1] for name in names))
    index += struct.pack(f">{len(names)}L", *(places[name][0] for name in names)) + pack[-20:]
    return pack, index + _sha(index)


def _header(kind: int, size: int) -> bytes:
    """Kind and size, seven bits a byte."""
    out, byte = bytearray(), kind << 4 | size & 15
    size >>= 4
    while size:
        out.append(byte | 128)
        byte, size = size & 127, size >> 7
    out.append(byte)
    return bytes(out)


def _index(files: Mapping[str, bytes], blobs: Mapping[str, bytes], executable: frozenset[str]) -> bytes:
    """The index (version 2) with nothing known of the files on the disk: git looks at them itself."""
    parts = [b"DIRC" + struct.pack(">LL", 2, len(files))]
    for path in sorted(files, key=str.encode):
        name = path.encode()
        mode = PROGRAM if path in executable else FILE
        entry = struct.pack(">10L", 0, 0, 0, 0, 0, 0, mode, 0, 0, len(files[path])) + blobs[path]
        entry += struct.pack(">H", min(len(name), 0xFFF)) + name
        parts.append(entry + b"\0" * (8 - len(entry) % 8))
    index = b"".join(parts)
    return index + _sha(index)
