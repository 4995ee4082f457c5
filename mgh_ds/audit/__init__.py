"""What a sceptic asks of graded records before training on them: measured, with controls beside."""
