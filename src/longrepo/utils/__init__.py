"""Small tools that other folders share: files, caches, hashes, progress, process memory."""
