"""The tests: a mirror of the tree, and `functional` for what needs the real processes."""
