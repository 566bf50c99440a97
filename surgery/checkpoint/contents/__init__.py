"""Which mappings in a file or in memory are state dicts, and which of several is meant."""
