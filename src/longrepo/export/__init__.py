"""Adapters as other tools load them, and adapters of other tools as we load them."""
