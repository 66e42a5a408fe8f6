"""Brain tumour segmentation in BraTS MRI: published methods, from NIfTI files to a served model.

Importing this package imports no TensorFlow; the modules that need it do so themselves.
"""

__version__ = "0.1.0"
