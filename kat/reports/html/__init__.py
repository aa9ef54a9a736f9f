"""One self-contained page that shows a report: no network, no server, no WebGL."""
