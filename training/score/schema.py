"""Names in `report.json` that several files know."""

SCHEMA = 1  # rises when a key changes its meaning; new keys do not count
REPORT = "report.json"
WHOLE = "whole"
BANDS = "bands"
REGIONS = "regions"
SCENES = "scenes"
