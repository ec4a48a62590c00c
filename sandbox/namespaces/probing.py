"""Whether namespaces work on this machine: by starting one sandbox and ending it."""
