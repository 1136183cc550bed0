"""Packaging of the Scipion plugin ``scipion_cocofold`` and of its engine ``cocofold``.

Nothing is required at installation: Scipion's environment already has scipion-em, and the engine
lives in an environment of its own that asks for the extra ``engine``. ``python_requires`` follows
Scipion, whose Python may be 3.8; the engine needs a newer one and says so when it is imported.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "cocofold" / "__init__.py").read_text()).group(1)

ENGINE = [
    "torch>=2.4,<3",
    "numpy>=1.24,<3",
    "scipy>=1.10",
    "gemmi>=0.7.4,<0.8",
    "lz4>=4.0",
    "mrcfile>=1.4",
    "starfile>=0.5.6",
    "pandas>=2.1",
    # Later ones import the compiler of torch, which doubles the time to start.
    "roma>=1.5,<1.6",
    "safetensors>=0.4.3",
    "PyYAML>=6.0",
    "typer>=0.12",
    "rich>=13.7",
    "matplotlib>=3.8",
    "Pillow>=10.0",
    "plotly>=6.0",
    "Jinja2>=3.1",
    "openmm>=8.1",
    "pdbfixer>=1.9",
]
SCIPION = ["scipion-em>=3.11,<4", "scipion-app>=3.8,<4"]
DEV = [
    # With pytest 9.2 pytest-xdist 3.8 runs the tests of a file in several processes, each with fixtures of its own
    "pytest>=8.0,<9.2",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "tmtools>=0.3",
    "websocket-client>=1.8",
    "modelcif>=1.8",
    "ihm>=2.12",
    "biopython",
    "psutil",
    # Scipion pins a scipy that Python 3.12 does not have
    "scipion-em-relion>=5.0; python_version < '3.12'",
    "scipion-em-cryosparc2>=5.0; python_version < '3.12'",
    "scipion-em-chimera>=4.0; python_version < '3.12'",
    "scipion-em-phenix>=3.2; python_version < '3.12'",
    "ruff>=0.12",
    "mypy>=1.14",
    "types-PyYAML",
    "pandas-stubs",
]


class SourceDistribution(sdist):
    """Puts the benchmarks, parts of which the tests import, into the archive, but not into egg-info's list of files.

    Scipion's installer takes the folder of the first ``__init__.py`` among a distribution's files for the plugin. For a
    checkout those are the files that egg-info lists, and there the benchmarks would stand before ``cocofold``.
    """

    def make_distribution(self):
        self.filelist.graft("benchmarks")
        self.filelist.global_exclude("*.py[cod]")
        super().make_distribution()


setup(
    name="scipion-em-cocofold",
    version=VERSION,
    description="Move a predicted protein model to fit raw cryo-EM particle images, inside Scipion and out of it",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="CoCoFold for Scipion contributors",
    project_urls={
        "Paper": "https://doi.org/10.1038/s42004-026-01899-7",
        "Scipion": "https://scipion.i2pc.es",
    },
    license="GPL-3.0-or-later",
    license_files=["LICENSE"],
    keywords=["scipion", "cryo-em", "imageprocessing", "model building", "AlphaFold", "flexible fitting"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Bio-Informatics",
    ],
    python_requires=">=3.8",
    install_requires=[],
    cmdclass={"sdist": SourceDistribution},
    extras_require={"engine": ENGINE, "scipion": SCIPION, "dev": DEV},
    packages=find_packages(".", include=["cocofold", "cocofold.*"]) + find_packages("scipion-em-cocofold"),
    package_dir={"scipion_cocofold": "scipion-em-cocofold/scipion_cocofold"},
    package_data={
        "cocofold": ["py.typed", "**/*.cif", "assessment/*.npz", "assessment/*.txt", "reporting/page/*"],
        "scipion_cocofold": [
            "protocols.conf",
            "*.png",
            "*.schema.json",
            "templates/*.json.template",
            "templates/*.json",
        ],
    },
    entry_points={
        "console_scripts": ["cocofold = cocofold.__main__:main"],
        "pyworkflow.plugin": ["scipion_cocofold = scipion_cocofold"],
    },
)
