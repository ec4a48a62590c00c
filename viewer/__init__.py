"""What shows a run: the HTML report, the terminal views, live progress."""
