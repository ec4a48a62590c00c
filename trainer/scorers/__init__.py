"""Models beside the policy that score its turns before the stages of credit run.

A scorer sees every step's turns, adds columns to the table and learns from the run's own episodes; its
state is in the checkpoint. ``sections`` says which there are and needs no torch; ``trajectories`` lays a
table out for a model; each other file is one scorer.
"""
