"""The camera student, BEVFormer; torch only."""
