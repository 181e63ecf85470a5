"""Pictures of what models make of texts, and of what models are, for notebooks, browsers and
terminals.
"""
