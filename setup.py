"""Installs the package as settings.ini describes it."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
package = settings["lib_path"]
readme = here / "README.md"  # generated, so it may be missing for a moment

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    keywords=settings["keywords"].split(),
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    license="Apache-2.0",
    python_requires=">=" + settings["min_python"],
    packages=[package],
    package_data={
        package: [
            "checkpoints/*/*", "natural/tasks/*", "natural/splits/default/*", "recipes/*",
            "records/*", "templates/*",
        ]
    },
    install_requires=settings["requirements"].split(),
    extras_require={
        extra: settings[f"{extra}_requirements"].split()
        for extra in ("dev", "bench", "site", "english")
    },
    entry_points={
        "console_scripts": settings["console_scripts"].split(),
        "nbdev": [f"{package} = {package}._modidx:d"],
    },
)
