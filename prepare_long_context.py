"""The documented command: python prepare_long_context.py --repo … --output-dir …"""

from longrepo.cli.app import run_alone
from longrepo.cli.data import prepare

if __name__ == "__main__":
    run_alone(prepare)
