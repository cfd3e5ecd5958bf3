"""The MLX engine: mlx-lm's models on Apple Silicon, and on a CPU."""
