"""The files that a benchmark writes: record, HTML report, Markdown tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from teco.benchmark.quality.measure import Gallery
from teco.benchmark.record import store
from teco.benchmark.record.record import Record
from teco.core.files import write_beside

if TYPE_CHECKING:
    from teco.benchmark.report.html.libraries import Libraries

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BenchOutputs:
    """Where to write; None for what is not asked for.

    Attributes:
        json: the record.
        html: the report.
        markdown: the tables for a README.
        libraries: that draw the charts of the report.
    """

    json: Path | None
    html: Path | None
    markdown: Path | None
    libraries: Libraries | None = None

    @classmethod
    def find(cls, *, json: Path | None, html: Path | None, markdown: Path | None) -> BenchOutputs:
        """Get ready to write, before anything is measured: libraries may have to be fetched.

        Raises:
            TecoError: the report's libraries cannot be found or fetched.
        """
        if html is None:
            return cls(json=json, html=None, markdown=markdown)
        from teco.benchmark.report.html import libraries

        return cls(json=json, html=html, markdown=markdown, libraries=libraries.find())

    def keep(self, record: Record) -> None:
        """Write the record, complete or not, where one is asked for."""
        if self.json is not None:
            store.write(self.json, record)

    def write(self, record: Record, gallery: Gallery | None, shows: Mapping[str, str]) -> None:
        """Write everything.

        Args:
            record: what was measured.
            gallery: frames for the report.
            shows: row key -> the method in the gallery whose frames are the row's.

        Raises:
            WriteError: a file cannot be written.
        """
        if self.json is not None:
            self.keep(record)
            log.info("record: %s", self.json)
        if self.html is not None and self.libraries is not None:
            from teco.benchmark.report.html.page import write_html

            write_html(self.html, record, self.libraries, gallery, shows)
            log.info("report: %s", self.html)
        if self.markdown is not None:
            from teco.benchmark.report.markdown import markdown

            write_beside(self.markdown, markdown(record).encode())
            log.info("tables: %s", self.markdown)
