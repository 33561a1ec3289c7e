"""Search a code base by a sentence."""
