"""How far a model's positions reach: pure functions on its configuration, the same for every engine and tool."""
