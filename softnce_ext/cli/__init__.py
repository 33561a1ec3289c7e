"""The command line: `softnce`."""
