"""OpenEnv's wire protocol in front of the sessions of a server, so that its clients connect unchanged."""
