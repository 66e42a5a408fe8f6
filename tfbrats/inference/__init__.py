"""How a whole case becomes a label map, and how a model that does so is exported. Loads TensorFlow."""
