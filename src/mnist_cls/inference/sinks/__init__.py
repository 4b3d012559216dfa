"""Where rows go: the screen, standard output, files."""
