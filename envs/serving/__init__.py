"""Environments for others: a server of sessions, and the client that steps them like local ones.

What both speak: ``wire`` (requests and replies), ``faults``, ``tokens``, ``outbox`` (frames on their way).

The client: ``client`` (``connect``, and sessions as local ones) over a ``link`` to each worker, which a
``dialler`` connects.

The server: ``server`` is one process, and ``front`` several of them (``worker``), reached by ``routing``;
``losses`` counts what dies with one. A ``connection`` hands what a client asks to the ``service``, for its
``lease`` and exactly once (``ledger``). The ``roster`` has the open sessions; each ``served_session`` is
written to the ``journal``, which ``replay`` carries out again, and kept within its ``memory``
(by ``weighing``).

For those who run it: ``operations`` are the routes, ``status`` what the page shows, ``counters`` count for it
and for ``metrics``, ``listing`` names sessions and environments, ``siblings`` asks the other workers,
``openapi`` describes, ``logs`` writes.
"""
