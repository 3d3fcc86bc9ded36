"""Work in processes of its own: children that end with their parent, and one function over many items."""
