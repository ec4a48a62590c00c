"""Programs that run in the sandbox, with whatever Python is there: they import nothing of this package."""
