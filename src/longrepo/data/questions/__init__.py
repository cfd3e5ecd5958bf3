"""Questions about a repository: made from outlines and changes, written into sequences, and checked independently."""
