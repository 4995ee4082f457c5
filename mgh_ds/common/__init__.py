"""What every room may use: files, configuration, errors. It knows no room."""
