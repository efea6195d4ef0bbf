// JupyterLab takes keys that are pressed in a panel for its own shortcuts: `b` on a button would add a cell. It leaves
// alone what has this attribute, which goes while Ctrl or Cmd is held, so that Ctrl+S still saves the notebook.
const panel = this.closest(".peft-nb");
const spare = (event) => {
  event.target.toggleAttribute("data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
  if (event.type === "keydown" && event.key === "Escape") panel.closest(".jp-Notebook")?.focus();
};
for (const kind of ["focusin", "keydown", "keyup"]) panel.addEventListener(kind, spare);
