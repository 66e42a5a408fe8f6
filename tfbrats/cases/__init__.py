"""One patient at one time point: read, checked, prepared, and what can be cut from it."""
