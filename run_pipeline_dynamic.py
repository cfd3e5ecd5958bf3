"""The whole way in one go: `python run_pipeline_dynamic.py --repo PATH`. See `longrepo.pipeline`."""

from longrepo.cli.app import run_alone
from longrepo.cli.pipeline import pipeline

if __name__ == "__main__":
    run_alone(pipeline)
