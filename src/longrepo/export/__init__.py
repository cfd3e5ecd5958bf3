"""Export adapters for other tools, and import adapters that other tools trained."""
