"""How does a person who has a browser hand in a case, and see what a model makes of it?"""
