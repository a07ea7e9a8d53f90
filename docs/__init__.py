"""Pages, and the program that makes a site of them."""
