"""The doctor: checks of everything that the node needs, each with one line that says what is wrong and what to do."""
