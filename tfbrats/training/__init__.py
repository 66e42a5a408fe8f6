"""How a network learns, and on which devices. Loads TensorFlow."""
