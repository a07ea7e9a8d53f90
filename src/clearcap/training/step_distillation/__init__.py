"""A captioner of many steps taught to a student of one or two."""
