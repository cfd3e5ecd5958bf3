"""Reading a git repository: files at a revision, history, import graph. Never runs what the repository says."""
