"""What of a case is also done inside a TensorFlow graph? The twins of numpy files, and what they share."""
