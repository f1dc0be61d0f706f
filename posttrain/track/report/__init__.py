"""The report: one self-contained HTML file from a run folder."""

from posttrain.track.report.build import write_report

__all__ = ["write_report"]
