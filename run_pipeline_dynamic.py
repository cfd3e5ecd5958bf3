"""The whole way in one go: `python run_pipeline_dynamic.py --repo PATH`. See `longrepo.commands.pipeline`."""

from longrepo.commands.app import run_alone
from longrepo.commands.pipeline import pipeline

if __name__ == "__main__":
    run_alone(pipeline)
