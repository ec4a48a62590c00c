"""Environments as other people's programs know them: a gymnasium environment, an MCP server."""
