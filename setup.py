"""Installs tfbrats. Beam ships this file to its workers (`--setup_file=./setup.py`)."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent

# Ranges, not pins. Those with an upper bound say why.
INSTALL_REQUIRES = [
    "tensorflow>=2.21,<2.22",  # tensorflow-serving-api wants the same minor version
    "tensorflow-serving-api>=2.19",
    "keras>=3.15,<4",  # functional models with dict outputs as of 3.15
    "apache-beam>=2.77,<3",
    "google-crc32c>=1.5",  # Beam and our records need it for TFRecord checksums
    "nibabel>=5.2",
    "deflate>=0.7",  # libdeflate, .nii.gz: unpacks six times as fast as the standard library
    "isal>=1.6",  # what libdeflate does not: several gzip members, the beginning of a file, slices that travel
    "SimpleITK>=2.3",
    "numpy>=1.26",
    "scipy>=1.11",  # distance transforms: contour band, surface distances
    "fsspec>=2024.2",  # one opener for local folders and gs://
    "grpcio>=1.60",
    "grpcio-health-checking>=1.60,<1.82",  # of the embedded server; later ones want protobuf 7, Beam does not
    "protobuf>=5.29",
    "pydantic>=2.6",  # config validation
    "PyYAML>=6",
    "psutil>=5.9",  # free memory, worker processes of the Beam job
    "tenacity>=9",  # retries of the gRPC client
    "tqdm>=4.66",  # progress bars
    "argcomplete>=3.3",  # tab completion
    "matplotlib>=3.8",
    "Jinja2>=3.1",  # the report page
    "starlette>=0.46",  # tfbrats page
    "uvicorn>=0.34",
    "tensorboard>=2.18",
    # NiiVue, which draws a case in a browser (docs/why/viewer.md); each minor version may name its parts anew.
    "ipyniivue>=2.4.4,<2.5",
]

EXTRAS = {
    # Dataflow and gs:// paths.
    "gcp": ["apache-beam[gcp]>=2.77,<3", "gcsfs>=2024.2"],
    "dicom": ["pydicom>=3", "highdicom>=0.26"],  # series in, DICOM-SEG out
    "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
    "dev": [
        "pydicom>=3",
        "highdicom>=0.26",
        "pytest>=8",
        "pytest-xdist>=3.6",  # CI: a file of tests on each core
        "hypothesis>=6.100",
        "kubernetes-validate>=1.31",  # Kubernetes' own schemas: tests/serving/test_kubernetes.py
        "promql-parser>=0.12",  # the dashboard's queries: tests/serving/test_monitoring.py
        "mypy>=1.15",  # the public names: tests/test_api.py
        "nbclient>=0.10",  # docs/start/quickstart.ipynb: tests/test_notebook.py
        "ipykernel>=6.29",
        "selenium>=4.20",  # drives Debian's Chromium: tests/browser.py
        "ruff>=0.9",
        "pre-commit>=3.6",
        "mkdocs>=1.6,<2",  # the pages under docs/ as a site; the theme below is for 1
        "mkdocs-material>=9.6",
        "mkdocs-jupyter>=0.25",  # docs/start/quickstart.ipynb as a page
        "gcsfs>=2024.2",
        "gcp-storage-emulator>=2026.7",  # stands in for Google Cloud Storage in tests/test_remote.py
    ],
}

PACKAGES = setuptools.find_packages(include=["tfbrats*", "beam_pipelines*", "serving*"])
# The shipped configs live at the top level, where people look for them, and are installed inside the package,
# where `--config cun.yaml` finds them.
PACKAGES.append("tfbrats.configs")

setuptools.setup(
    name="tfbrats",
    version="0.1.0",
    description="Brain tumour segmentation in BraTS MRI with TensorFlow and Keras: "
    "published methods, from NIfTI files to a served model.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=PACKAGES,
    package_dir={"tfbrats.configs": "configs"},
    package_data={
        "tfbrats": ["py.typed", "*.pyi"],
        "tfbrats.exports": ["*.txt.gz"],
        "tfbrats.reporting": ["*.html.jinja", "*.js"],
        "tfbrats.viewer": ["*.html.jinja", "*.css", "*.js"],
        "tfbrats.configs": ["*.yaml"],
        "serving": ["*.config", "*.yaml", "*.protoset", "kubernetes/**/*.*", "monitoring/*"],
        "serving.page": ["*.html", "*.css", "*.js"],
    },
    entry_points={"console_scripts": ["tfbrats = tfbrats.__main__:main"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
)
