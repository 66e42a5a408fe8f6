"""What does a person at the terminal type and see? Knows nothing of tumours."""
