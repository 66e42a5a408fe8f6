"""What does a case look like? Slices, contours and differences as pictures, with what tells where they lie."""
