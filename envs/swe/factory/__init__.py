"""The task factory: tasks of software repair out of published packages and their own tests.

A source distribution is read as an archive (:mod:`.sdist`), its package and tests are found (:mod:`.layout`),
the tests that always pass are its baseline (:mod:`.baseline`). Bugs are put into the source (:mod:`.bugs`),
each is tried in a sandbox (:mod:`.trial`), and what some test notices becomes a task with an issue in words
(:mod:`.issue_text`). Nothing of a package runs outside a sandbox.
"""
