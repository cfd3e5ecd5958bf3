"""Errors shown to the user: one line each that says what is wrong, where, and what to do."""


class InputError(Exception):
    """Something the user gave can't be used (arguments, settings, files, repository). Exit status 2."""


class RunError(Exception):
    """A run failed although its input was valid (full disk, lost device). Exit status 1."""


class OutOfMemory(RunError):
    """A step ran out of memory; weights, optimizer and checkpoints are as they were before the update."""
