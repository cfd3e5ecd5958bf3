"""Which file of a repository imports which, by each language's own rules."""
