"""longrepo: a long-context LoRA adapter for a code model, from a developer's own git repository."""

__version__ = "0.1.0"
