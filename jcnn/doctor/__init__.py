"""What this machine and this jaxlib can do for convolutions."""
