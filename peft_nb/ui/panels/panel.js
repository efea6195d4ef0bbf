// JupyterLab takes keys that are pressed in a panel for its own shortcuts: `b` on a button would add a cell. It leaves
// alone what has this attribute, which goes while Ctrl or Cmd is held, so that Ctrl+S still saves the notebook. The
// document is listened to because an element is rendered before it is put into its panel, and before anybody else because
// the text fields of ipywidgets tell nobody of their keys.
const shown = new WeakMap(); // by model: how often this page shows the panel
function show(model, more) {
  shown.set(model, (shown.get(model) ?? 0) + more);
  model.set("views", shown.get(model));
  model.save_changes();
}

// While the panel lives, its static page is not shown.
function hidingPage(key) {
  const page = `.peft-nb-stays[data-panel="${key}"]`;
  const style = document.createElement("style");
  style.textContent = `${page}, .jp-OutputArea-child:has(${page}) { display: none; }`;
  return style;
}

function notice(command) {
  const said = document.createElement("div");
  said.className = "peft-nb-gone";
  said.setAttribute("role", "status");
  said.hidden = true;
  said.append("kernel gone: ");
  const code = document.createElement("code");
  code.textContent = command;
  said.append(...(command ? [code] : ["run the cell again"]));
  return said;
}

// JupyterLab marks the widgets of a kernel that somebody restarts. That a kernel died or was shut down only the
// notebook's indicator tells; while it is "unknown", the connection may come back.
const OVER = ["restarting", "autorestarting", "terminating", "dead"];
function watch(el, changed) {
  let over = false;
  const look = () => {
    const panel = el.closest(".peft-nb");
    const indicator = el.closest(".jp-NotebookPanel")?.querySelector(".jp-Notebook-ExecutionIndicator");
    const status = indicator?.dataset.status;
    over ||= OVER.includes(status) || !!panel?.classList.contains("jupyter-widgets-disconnected");
    changed(over || status === "unknown", panel);
  };
  const timer = setInterval(look, 500);
  return () => clearInterval(timer);
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
    document.addEventListener(kind, spare, { capture: true, signal: removed.signal });
  }
  const hiding = hidingPage(model.get("key"));
  const said = notice(model.get("again"));
  el.append(hiding, said);
  const unwatch = watch(el, (gone, panel) => {
    if (said.hidden === !gone) return;
    said.hidden = !gone;
    hiding.disabled = gone;
    panel.classList.toggle("peft-nb-over", gone);
  });
  return () => {
    unwatch();
    removed.abort();
    show(model, -1);
  };
}

export default { render };
