"""The documented command: python training/model_trainer_unified.py --config training_config.yaml …"""

from longrepo.commands.app import run_alone
from longrepo.commands.train import train

if __name__ == "__main__":
    run_alone(train)
