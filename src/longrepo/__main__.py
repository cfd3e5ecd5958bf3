"""Run the `longrepo` command: `python -m longrepo`."""

from longrepo.cli.app import main

if __name__ == "__main__":
    main()
