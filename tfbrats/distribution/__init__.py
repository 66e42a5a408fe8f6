"""On which devices does a training run, and how do they agree? TensorFlow."""
