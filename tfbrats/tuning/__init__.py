"""How is a model's answer made better on cases that it did not learn from?"""
