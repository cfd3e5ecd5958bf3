"""The documented command: python tokenizers/git_tokenizer_rich.py --repo … --output …"""

from longrepo.cli.app import run_alone
from longrepo.cli.data import tokenize

if __name__ == "__main__":
    run_alone(tokenize)
