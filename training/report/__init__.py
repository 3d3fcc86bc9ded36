"""The report page: a report as one HTML file with pictures and a film, which opens offline."""
