"""A sweep's report: one HTML file that says which trial won, by how much and why, made of the sweep's folder alone.

values.py    what a report is made of, in plain values
gather.py    a sweep's folder -> these values
trials.py    its trials: journal, summaries and spools brought together
findings.py  finals, classes, sheets and facts of a sweep
levels.py    searched values in levels: marginal effects, heat map, and what is confounded
rerun.py     the command that runs the winner again, checked to be the same run
charts.py    the charts, as inline SVG; lines.py: those of lines over trials
tables.py    the tables; page.py puts all on one page
look.py      its style and its script, which the page's policy names by hash
"""
