"""Where images come from: files, folders, archives, arrays and tables."""
