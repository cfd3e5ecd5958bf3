"""The exact chunked step in MLX."""
