"""Images as rows: what a cell can hold, folders of them, how they are prepared, and what is wrong with them."""
