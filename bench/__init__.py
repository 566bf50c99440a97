"""Speed and memory, measured against what people do today: ``make bench``."""
