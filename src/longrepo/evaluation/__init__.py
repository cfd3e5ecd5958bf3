"""Base against tuned on what neither has seen."""
