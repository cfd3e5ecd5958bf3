"""What a text's syntax tree says of it."""
