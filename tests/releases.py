"""Programs of other releases: copies of this one that say so."""

import shutil
from pathlib import Path

import orchestrator
from orchestrator import __version__
from orchestrator.wire.proxy_handover import FORMAT

_FORMAT = "FORMAT: Final = {}\n"


def another_release(folder: Path, release: str, handover_format: int = FORMAT) -> Path:
    """A copy of the program that says it is of this release; where it is installed."""
    package = folder / release / "orchestrator"
    shutil.copytree(
        Path(orchestrator.__file__).parent,
        package,
        ignore=shutil.ignore_patterns("lab", "__pycache__"),
    )
    for file, old, new in (
        ("__init__.py", f'"{__version__}"', f'"{release}"'),
        ("wire/proxy_handover.py", _FORMAT.format(FORMAT), _FORMAT.format(handover_format)),
    ):
        text = (package / file).read_text()
        assert old in text
        (package / file).write_text(text.replace(old, new))
    return package.parent
