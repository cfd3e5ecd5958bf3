"""The whole way in one go: `python run_pipeline_dynamic.py --repo PATH`. See `longrepo.pipeline`."""

from longrepo.__main__ import main

if __name__ == "__main__":
    main("pipeline")
