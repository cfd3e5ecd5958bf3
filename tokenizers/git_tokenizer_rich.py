"""The documented command: python tokenizers/git_tokenizer_rich.py --repo … --output …"""

from longrepo.__main__ import main

if __name__ == "__main__":
    main("tokenize")
