"""From files to (documentation, function) pairs: reading, mining, splitting."""
