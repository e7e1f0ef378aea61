"""Typeset the handbook: every chapter source becomes the PDF that the demo ships.

Usage: python handbook/typeset.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

import typst

SOURCES = Path(__file__).resolve().parent
TARGET = SOURCES.parent / "src" / "ecg_llm" / "demo" / "handbook"
STAMP = datetime(2025, 1, 1, tzinfo=UTC)  # fixed, so two runs give equal bytes


def chapters() -> list[Path]:
    """List the chapter sources in reading order."""
    return sorted(SOURCES.glob("[0-9][0-9]-*.typ"))


def typeset(source: Path) -> bytes:
    """Compile one chapter to PDF; only the compiler's own fonts are used."""
    return typst.compile(source, root=SOURCES, ignore_system_fonts=True, timestamp=STAMP)


def main() -> int:
    """Write all PDFs, or with --check say which differ from their sources."""
    parser = argparse.ArgumentParser(description="Typeset the handbook chapters as PDF.")
    parser.add_argument("--check", action="store_true", help="fail if a PDF is stale")
    check = parser.parse_args().check
    TARGET.mkdir(parents=True, exist_ok=True)
    stale = 0
    for source in chapters():
        pdf = typeset(source)
        target = TARGET / f"{source.stem}.pdf"
        if not check:
            target.write_bytes(pdf)
            print(f"{target.name}: {len(pdf)} bytes")
        elif not target.is_file() or target.read_bytes() != pdf:
            print(f"stale or missing: {target.name}", file=sys.stderr)
            stale += 1
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
