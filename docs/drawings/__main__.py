"""Draw every head and count what docs/heads.md says: `python docs/drawings`. Faulty drawings end it with 1."""

from __future__ import annotations

import sys

from page import LAYOUTS, PAGE, PICTURES, blocks, filled

drawings = [layout() for layout in LAYOUTS]
faults = [f"{d.name}: {fault}" for d in drawings for fault in d.faults() + d.unknown() + d.undrawn()]
for d in drawings:
    (PICTURES / f"{d.name}.svg").write_text(d.svg(), "utf-8")
PAGE.write_text(filled(PAGE.read_text("utf-8"), blocks(drawings)), "utf-8")
print("\n".join(faults or [f"{len(drawings)} drawings in {PICTURES}, counts in {PAGE}"]))
sys.exit(bool(faults))
