"""`python -m longrepo` is the `longrepo` command."""

from longrepo.commands.app import main

if __name__ == "__main__":
    main()
