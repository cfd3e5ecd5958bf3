"""The `longrepo` command and what the front doors call."""
