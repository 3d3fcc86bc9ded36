"""Gates: criteria that a report must meet, alone or beside the report of the model before."""
