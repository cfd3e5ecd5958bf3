"""One exact training step in chunks of tokens: no activation of the whole sequence but each layer's input."""
