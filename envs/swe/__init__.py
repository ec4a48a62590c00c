"""Software repair: an agent mends a repository, hidden tests judge it."""
