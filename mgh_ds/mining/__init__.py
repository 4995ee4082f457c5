"""Hard negatives from a corpus: exact search, what is left out of what it finds, and levels for the rest."""
