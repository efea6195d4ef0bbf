"""Styles of what stands in saved notebooks, where no style sheet is: inline, in the colours of the notebook's theme."""

BOX = (
    "max-width:960px;line-height:1.5;font-family:var(--jp-ui-font-family,system-ui,sans-serif);"
    "font-size:var(--jp-ui-font-size1,13px);color:var(--jp-ui-font-color1,inherit)"
)
MUTED = "opacity:.75"
NUMBERS = "font-variant-numeric:tabular-nums"
