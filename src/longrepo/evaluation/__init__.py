"""Compare the base model with the tuned one on lines that neither has seen."""
