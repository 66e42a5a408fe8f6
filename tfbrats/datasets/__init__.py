"""Which files are which case, whose, and of which data set: by names and tables alone."""
