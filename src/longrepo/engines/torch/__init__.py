"""The torch engine: transformers, PEFT, bitsandbytes on CPU, CUDA and MPS."""

import logging
import warnings

# On import it warns that an optional kernel package for inference on a CPU is missing. Training doesn't use it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# PEFT reads an attribute that transformers has renamed; there is nothing a user could do about it.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
