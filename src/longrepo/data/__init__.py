"""From a repository to labelled token sequences on disk."""
