"""The networks in each library: `test_libraries` imports those that are installed."""

collect_ignore_glob = ["flax_*.py", "*_.py"]
