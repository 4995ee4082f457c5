"""Charts as inline SVG that this project draws itself: colours follow the page's light or dark theme, letters
stay text, and nothing has to be fetched.

`chart` lays a chart out in SVG units, `chart.svg.jinja` draws it, `chart.css.jinja` and `colours.css.jinja`
style it; `mgh_ds.common.templates` finds the three.
"""
