"""What it would cost: before a run, or under another price list."""
