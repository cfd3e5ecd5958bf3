"""The documented command: python prepare_long_context.py --repo … --output-dir …"""

from longrepo.__main__ import main

if __name__ == "__main__":
    main("prepare")
