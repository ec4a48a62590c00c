"""``tools/configdesk``: bring values of a tree of configuration files in line with an instruction.

The agent looks values up in some files (``grep``, ``open``, ``get``), writes them to others (``set``),
has the result checked (``check``) and submits. Everything happens on real files in the sandbox; what
the values must become is known to the environment's process alone.

====== ===== ==== ====== ================================================================ ===== =====
level  files keys copies what is added                                                    best  turns
====== ===== ==== ====== ================================================================ ===== =====
1      5     2    1      single words only; a key is in one file; ``open`` says ``ok``        8    12
2      8     3    2      two copies                                                          14    24
3      12    6    2      directories, sections, the same key in many files; services are     12    24
                         named, not files; ``open`` shows the text; sums and products
4      24    10   3      two-hop look-ups, similarly named keys, comments, values that       21    36
                         are commented out, files that mention another's name
5      40    14   3      three-hop look-ups, mixed notations, and a note that is wrong       23    40
====== ===== ==== ====== ================================================================ ===== =====

Keys are those of one file; *best* is what the oracle needs at most; *turns* is the limit.

Levels 1 and 2 exist at several horizons, with the same files, keys, values and words (``horizon=16``).
An edit is given outright (``set db depth 20``), so it needs no search:

======= ===== ====== ================= ===== =====
horizon edits copies what is asked for  best turns
======= ===== ====== ================= ===== =====
4       1     0      ``set F K V``         4     6
8       0     1      ``copy A to B``       8    12
16      1     2      all of these         16    24
======= ===== ====== ================= ===== =====

Here *best* is exact. Level 1 is the one of 8 turns. A task of 4 turns has three moments before it is
submitted, so its milestones ``source_read`` and ``target_opened`` come with the same turn.

``problem`` says what a task consists of, ``small`` draws levels 1 and 2, ``large`` levels 3 to 5,
``generator`` turns a seed into a task and keeps the splits apart, ``desk`` is the environment.
"""

from turnwise.envs.tools.configdesk.desk import ConfigDesk
from turnwise.envs.tools.configdesk.generator import generate, words

__all__ = ["ConfigDesk", "generate", "words"]
