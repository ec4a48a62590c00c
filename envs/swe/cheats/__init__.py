"""Cheats, and a repository to try them on."""
