"""Settings: read once, checked whole, passed on. The ground floor: imports nothing of longrepo but errors."""
