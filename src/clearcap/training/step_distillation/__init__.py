"""A captioner of many steps distilled into a student of one or two."""
