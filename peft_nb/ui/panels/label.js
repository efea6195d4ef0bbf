// The kernel draws the row. This tells it which key or button was pressed, and for which row: a key that is pressed twice
// would otherwise label a row that nobody has seen.
const KEYS = new Set(["Enter", " ", "Backspace"]);

function render({ model, el }) {
  const draw = () => {
    const held = el.contains(document.activeElement);
    el.innerHTML = model.get("value");
    if (held) el.firstElementChild?.focus({ preventScroll: true });
  };
  const send = (told) => model.send({ ...told, row: el.firstElementChild?.dataset.row ?? "" });
  el.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target.closest("button, summary") && (event.key === "Enter" || event.key === " ")) return;
    if (!KEYS.has(event.key) && !/^[0-9a-z/]$/i.test(event.key)) return;
    event.preventDefault();
    send({ key: event.key.toLowerCase() });
  });
  el.addEventListener("click", ({ target }) => {
    const pressed = target.closest("button");
    if (pressed) send({ ...pressed.dataset });
  });
  model.on("change:value", draw);
  draw();
  return () => model.off("change:value", draw);
}

export default { render };
