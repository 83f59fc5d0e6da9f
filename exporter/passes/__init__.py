"""One graph pass a file. A pass changes the model it is given and returns nothing."""
