"""Many photos: from folders, archives and tables into files of captions that a killed run goes on with."""
