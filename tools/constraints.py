"""Writes constraints.txt: the versions that are installed in this environment and were tested.

Run it with `make constraints`. A version that needs a newer Python than the oldest one we support
gets a marker,
so that pip is free to choose an older release there.
"""
import re
from importlib.metadata import distributions

import readme

TOOLS_OF_PIP = {"pip", "setuptools", "wheel"}
HEADER = """\
# The versions this course was tested with; pip installs them with --constraint constraints.txt.
# Written by `make constraints`. A pin with a marker holds for the Pythons that have that release.
"""


def as_numbers(version):
    "Turn '3.10' into (3, 10), which can be compared."
    return tuple(int(part) for part in version.split("."))


def marker(requires_python, oldest):
    "Return the marker of a release that does not run on `oldest`, else an empty text."
    bound = re.search(r">=\s*(\d+\.\d+(?:\.[1-9]\d*)?)", requires_python or "")
    if not bound or as_numbers(bound[1]) <= as_numbers(oldest): return ""
    name = "python_full_version" if bound[1].count(".") > 1 else "python_version"
    return f' ; {name} >= "{bound[1]}"'


def pin(distribution, oldest):
    """Return one line: the name, the version without a build label such as +cpu, and a marker if
    it needs one."""
    name = distribution.metadata["Name"].lower().replace("_", "-")
    version = distribution.version.split("+")[0]
    return f"{name}=={version}{marker(distribution.metadata['Requires-Python'], oldest)}"


def main():
    "Write a pin for all that is installed, but for ourselves and pip's own tools."
    settings = readme.read_settings()
    left_out = TOOLS_OF_PIP | {settings["lib_name"].lower().replace("_", "-")}
    pins = {pin(distribution, settings["min_python"]) for distribution in distributions()}
    lines = sorted(line for line in pins if line.split("==")[0] not in left_out)
    (readme.ROOT / "constraints.txt").write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"constraints.txt: {len(lines)} pins")


if __name__ == "__main__": main()
