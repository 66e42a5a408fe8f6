"""How does a trained run become a model that a server loads? Each version whole, tried, or not there."""
