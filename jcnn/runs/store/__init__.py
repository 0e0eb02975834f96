"""What is in a run folder, written so that nothing is lost."""
