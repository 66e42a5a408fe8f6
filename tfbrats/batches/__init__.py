"""In which order records reach a network. Loads TensorFlow."""
