"""Brain tumour segmentation in BraTS MRI: published methods, from NIfTI files to a served model.

Importing this package imports no TensorFlow; the modules that need it do so themselves.
"""

from tfbrats.machine import surroundings

__version__ = "0.1.0"

surroundings.prepare()  # before any other import: it is about what these would read and where they would look
