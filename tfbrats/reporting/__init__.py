"""How good it is, told: words and pictures."""
