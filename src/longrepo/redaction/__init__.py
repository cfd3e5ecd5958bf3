"""Keys, passwords and people out of texts, before anything is made of them."""
