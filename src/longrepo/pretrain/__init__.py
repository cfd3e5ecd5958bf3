"""Train from scratch: presets by size, and the parameters and memory of any model."""
