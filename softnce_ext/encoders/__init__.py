"""How text becomes vectors."""
