"""Environments in which an agent works with tools on files of its own."""
