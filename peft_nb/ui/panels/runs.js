// The kernel draws the table. This tells it which header, run or box was pressed, and keeps the focus where it was.
const KINDS = ["sort", "open", "run", "tag"];

function render({ model, el }) {
  const draw = () => {
    const held = el.contains(document.activeElement) ? document.activeElement.dataset : {};
    const kind = KINDS.find((kind) => kind in held);
    el.innerHTML = model.get("value");
    if (kind) el.querySelector(`[data-${kind}="${CSS.escape(held[kind])}"]`)?.focus();
  };
  el.addEventListener("click", ({ target }) => {
    const pressed = target.closest("button");
    if (!pressed) return;
    model.send({ ...pressed.dataset });
    if (pressed.dataset.open) el.closest(".peft-nb")?.scrollIntoView({ block: "start" });
  });
  el.addEventListener("change", ({ target }) => model.send({ run: target.dataset.run, chosen: target.checked }));
  model.on("change:value", draw);
  draw();
  return () => model.off("change:value", draw);
}

export default { render };
