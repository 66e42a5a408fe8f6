"""What does whoever watches a server see of it? Status, metrics, a line a call."""
