"""What a model says of itself, and what it leaves in a folder."""
