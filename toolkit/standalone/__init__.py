"""Programs for machines that have no Python: the runner of bundles and the command line, frozen by PyInstaller."""
