"""Bugs as changes of a few places in a module's source: what they are, and how they are put in."""
