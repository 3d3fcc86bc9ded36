"""Where the cameras are and how the vehicle moves."""
