"""Questions on a repository: made from outlines and changes, written into sequences, checked on another way."""
