"""What runs the network: one file per engine, behind one protocol."""
