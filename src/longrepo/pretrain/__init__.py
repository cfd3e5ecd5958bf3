"""Models by size: presets to train from scratch, and what any model is made of and needs."""
