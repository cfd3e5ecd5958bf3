"""The documented command: python training/model_trainer_unified.py --config training_config.yaml …"""

from longrepo.cli.app import run_alone
from longrepo.cli.train import train

if __name__ == "__main__":
    run_alone(train)
