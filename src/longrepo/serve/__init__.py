"""What a tuned model is for: completing code, at a place in a file or for an editor that asks a server."""
