"""Labels of unlabelled drives: what a trained detector finds, as annotations of a data set."""
