"""Records to one HTML page and PNG figures; reads records only.

``runs`` reads a runs folder; ``scores`` and ``published`` make rows of its records, ``overlays`` pictures; ``charts``,
``sensitivity_charts`` and ``shift_charts`` draw them (Vega-Altair); ``page`` sets all of it into ``page.html.j2`` and
writes the files, ``png`` the charts for papers.
"""
