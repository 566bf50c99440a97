"""Networks by name or live: found, built without values, described, remembered."""
