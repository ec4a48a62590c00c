"""Recipes side by side: frozen first, then run with the same seeds, then told with intervals.

``manifest`` says what is compared and refuses what is not comparable, ``pool`` runs the runs in processes of
their own, ``results`` reads what came of them, ``statistics`` says how sure one can be, and ``compare`` goes
through it all.
"""
