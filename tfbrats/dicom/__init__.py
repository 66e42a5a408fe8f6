"""How does a study of a hospital become a case, and a segmentation an object of it?"""
