"""Published methods, one to a file: what a user would try instead of the two cases."""
