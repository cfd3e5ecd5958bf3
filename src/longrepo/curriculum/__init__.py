"""Which sequences, in which phase and order, at which learning rate."""
