"""The paper's tables from runs of this lab, with the paper's own beside them, as one report.

`protocols` trains (or finds) what the tables are of, `costs` measures what it costs on this machine,
`findings` turns both into tables, figures and sentences (`document`, `charts`), and `writing` writes them as
CSV, Markdown and HTML. `reproduce.reproduce` is all of it: `qmoe reproduce`.
"""
