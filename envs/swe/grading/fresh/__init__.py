"""Seeded tests: a function of the package asked about inputs that are new at every grading.

What is asked is drawn from the inputs that the package's own tests have given to it (:mod:`.draw`). The
answers that the original code gives are computed in the judge, which holds it beside the hidden tests
(:mod:`.original`), before the package under test is asked anything (:mod:`.asking`). Whether a function can
be asked so is found out in sandboxes (:mod:`.calls`, :mod:`.probe`), when its task is made.

The modules need the standard library only, and :mod:`..codec`.
"""
