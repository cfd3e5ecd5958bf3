"""Complete code with a tuned model, at a position in a file or for an editor that asks a server."""
