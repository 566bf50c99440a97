"""Which source tensor feeds which target tensor, and on what evidence."""
