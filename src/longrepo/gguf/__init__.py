"""A model in a GGUF file, as llama.cpp, Ollama and LM Studio keep it, rewritten as a Hugging Face folder."""
