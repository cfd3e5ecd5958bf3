"""What a step may use and what it used."""
