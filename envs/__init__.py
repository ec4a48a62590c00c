"""Tasks, the step API, and the environment families."""
