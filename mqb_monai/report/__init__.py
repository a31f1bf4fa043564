"""One HTML page and PNG figures, made from records only.

``runs`` reads a folder of records; ``scores`` and ``published`` make rows of them, ``overlays`` pictures; ``charts``,
``sensitivity_charts`` and ``shift_charts`` draw them (Vega-Altair); ``page`` sets all of it into ``page.html.j2`` and
writes the files, ``png`` the charts for papers.
"""
