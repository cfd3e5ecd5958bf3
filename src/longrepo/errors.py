"""The two errors a person sees: each is one line that says what, where, and what to do."""


class InputError(Exception):
    """Something the user gave can't be used (arguments, settings, files, repository). Exit status 2."""


class RunError(Exception):
    """A run failed for a reason that isn't the input's (full disk, lost device). Exit status 1."""


class OutOfMemory(RunError):
    """A step's memory could not be had; weights, optimizer and checkpoints are as before the update."""
