"""How many cases a minute does a server manage, and how many pods do so many an hour want?"""
