"""Grading hidden tests against hostile code."""
