"""The whole way in one go: stages, what each derives, and what is skipped because it is done."""
