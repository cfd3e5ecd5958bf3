"""mlx-lm's models, made to compute what a model's own configuration says."""
