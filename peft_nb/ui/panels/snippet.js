function render({ model, el }) {
  el.classList.add("peft-nb-snippet");
  const head = document.createElement("div");
  const copy = document.createElement("button");
  const said = document.createElement("span");
  const code = document.createElement("pre");
  const show = () => {
    code.textContent = model.get("code");
    code.setAttribute("aria-label", model.get("name"));
    copy.textContent = `Copy ${model.get("name")}`;
  };
  copy.className = "jupyter-button widget-button";
  said.setAttribute("role", "status");
  code.tabIndex = 0; // so that it can be scrolled by keyboard
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("code"));
      said.textContent = "copied";
    } catch {
      // A page that is not served over https gets no clipboard: the code is selected for Ctrl+C instead.
      getSelection().selectAllChildren(code);
      said.textContent = "selected; press Ctrl+C";
    }
  });
  head.append(copy, said);
  el.append(head, code);
  show();
  model.on("change:code", show);
  return () => model.off("change:code", show);
}

export default { render };
