"""What disk, memory, signals and terminal do. Knows nothing of tumours."""
