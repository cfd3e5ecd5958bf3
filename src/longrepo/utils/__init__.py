"""Small tools that every other folder uses: files, caches, hashes, progress, the process."""
