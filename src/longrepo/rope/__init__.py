"""Scale rotary positions: pure functions on a model's configuration, shared by every engine and tool."""
