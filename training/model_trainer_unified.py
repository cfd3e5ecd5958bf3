"""The documented command: python training/model_trainer_unified.py --config training_config.yaml …"""

from longrepo.__main__ import main

if __name__ == "__main__":
    main("train")
