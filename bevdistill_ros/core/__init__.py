"""Facts and geometry that every part shares; numpy and torch only."""
