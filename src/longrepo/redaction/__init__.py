"""Removes keys, passwords, e-mail addresses and people's names from texts before they are used."""
