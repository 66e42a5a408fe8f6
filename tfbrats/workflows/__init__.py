"""What several of our commands in a row mean, cost and do."""
