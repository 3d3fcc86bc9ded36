"""The sections of the doctor's report, one a file."""
