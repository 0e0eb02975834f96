"""oneDNN as jaxlib holds it: its calls, whether they can be made, and a trial."""
