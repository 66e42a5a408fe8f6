"""How is one case shown in a browser, in one file?"""
