"""The judge: hidden tests and verdict in a trusted process of their own; the package is elsewhere.

The test files are ordinary pytest files. What they import of the package are proxies
(:mod:`.finder`); a call travels to a worker as values (:mod:`.link`), which holds the package and is new
for every test. Nothing that comes back is asked whether it is equal or true: the judge builds exact
builtins of it and compares by itself (:mod:`.handles`). What pytest reports goes to the owner
(:mod:`.plugin`).
"""
