"""Frameworks behind one small protocol: see `longrepo.engines.base`."""
