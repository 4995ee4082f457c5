"""What a training example is, how it is checked and converted, and where it is kept."""
