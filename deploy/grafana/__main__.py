"""Write the dashboards: ``python -m deploy.grafana [FOLDER]``, by default into ``deploy/grafana/dashboards``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.detector import detector
from deploy.grafana.fleet import fleet
from deploy.grafana.internals import internals

DASHBOARDS = {"fleet": fleet, "detector": detector, "internals": internals}


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, dashboard in DASHBOARDS.items():
        text = json.dumps(dashboard(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "dashboards")
