"""The report: what a run folder's files say, as one self-contained HTML page. It reads files, no more."""
