"""What is stored of cases, and whether it is sound."""
