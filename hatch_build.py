"""Names the licence files of a wheel, also in a folder with brackets: hatchling takes its name for a pattern."""

from glob import escape
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LICENCES = ("LICENSE", "src/perstep/data/vendor/*.LICENSE")


class Licences(MetadataHookInterface):
    """Fills in `license-files`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Whole paths, of which the folder is no pattern; hatchling shortens what it finds."""
        metadata["license-files"] = [str(Path(escape(self.root), name)) for name in LICENCES]
