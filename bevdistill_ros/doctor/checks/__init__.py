"""The sections of the doctor's report, one per file."""
