"""Scores of an encoder: MTEB tasks from the hub or local folders, and held-out graded records."""
