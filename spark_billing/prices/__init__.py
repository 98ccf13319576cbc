"""A price list in every form in which it can be asked: a table to join, SQL, arrays, plain Python."""
