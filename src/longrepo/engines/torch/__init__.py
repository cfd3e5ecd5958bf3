"""The torch engine: transformers, PEFT, bitsandbytes on CPU, CUDA and MPS."""
