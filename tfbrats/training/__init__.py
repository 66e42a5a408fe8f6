"""How a network learns. Loads TensorFlow."""
