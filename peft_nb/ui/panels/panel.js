// JupyterLab takes keys that are pressed in a panel for its own shortcuts: `b` on a button would add a cell. It leaves
// alone what has this attribute, which goes while Ctrl or Cmd is held, so that Ctrl+S still saves the notebook. The
// document is listened to because an element is rendered before it is put into its panel.
const shown = new WeakMap(); // by model: how often this page shows the panel
function show(model, more) {
  shown.set(model, (shown.get(model) ?? 0) + more);
  model.set("views", shown.get(model));
  model.save_changes();
}

function render({ model, el }) {
  show(model, 1);
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
  return () => {
    removed.abort();
    show(model, -1);
  };
}

export default { render };
