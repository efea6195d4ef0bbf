// JupyterLab takes keys that are pressed in a panel for its own shortcuts: `b` on a button would add a cell. It leaves
// alone what has this attribute, which goes while Ctrl or Cmd is held, so that Ctrl+S still saves the notebook. The
// document is listened to because an element is rendered before it is put into its panel.
function render({ el }) {
  const removed = new AbortController();
  const spare = (event) => {
    const panel = el.closest(".peft-nb");
    if (!panel?.contains(event.target)) return;
    event.target.toggleAttribute("data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
    if (event.type === "keydown" && event.key === "Escape") panel.closest(".jp-Notebook")?.focus();
  };
  for (const kind of ["focusin", "keydown", "keyup"]) {
    document.addEventListener(kind, spare, { signal: removed.signal });
  }
  return () => removed.abort();
}

export default { render };
