"""Corpora to vectors: what is read, how a folder of vectors lies, and the work of one worker of several."""
