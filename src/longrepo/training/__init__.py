"""The one loop: steps, metrics, checkpoints. Knows no framework."""
