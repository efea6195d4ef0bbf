// A page may ask JupyterLab for its commands by links with these attributes; one that is asked so does as if clicked.
function link(command, args) {
  const made = document.createElement("span");
  made.hidden = true;
  made.dataset.commandlinkerCommand = command;
  made.dataset.commandlinkerArgs = JSON.stringify(args);
  return made;
}

// A second command would be a second question.
function paste(editor, text) {
  const clipboardData = new DataTransfer();
  clipboardData.setData("text/plain", text);
  editor.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}

function render({ model, el }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "jupyter-button";
  button.textContent = "Insert below";
  const insert = link("notebook:insert-cell-below", {});
  const show = () => {
    el.style.display = model.get("cell") ? "" : "none";
  };
  // Where no cell appears, because the answer was no or this is another front end: say what to do instead.
  const told = document.createElement("span");
  told.setAttribute("role", "status");
  const instead = async () => {
    const copied = await navigator.clipboard?.writeText(model.get("cell")).then(() => true, () => false);
    told.textContent = copied ? "Copied: paste it into a new cell." : "Copy the equivalent cell into a new one.";
  };
  // In a notebook that is not trusted JupyterLab asks before it inserts the cell. Its editor comes a while later, and
  // nothing is written into a cell that holds anything.
  let waiting;
  button.addEventListener("click", () => {
    const home = el.closest(".jp-Cell");
    let waited = 0;
    told.textContent = "";
    insert.click();
    clearInterval(waiting);
    waiting = setInterval(() => {
      if (document.querySelector(".jp-Dialog")) return;
      const cell = home?.closest(".jp-Notebook")?.querySelector(".jp-Cell.jp-mod-active");
      const made = cell && cell !== home;
      const editor = made && cell.querySelector(".cm-content");
      if (editor && !editor.textContent.trim()) {
        clearInterval(waiting);
        paste(editor, model.get("cell").trimEnd());
      } else if (++waited > (made ? 400 : 30)) {
        clearInterval(waiting);
        instead();
      }
    }, 50);
  });
  model.on("change:cell", show);
  show();
  el.append(button, " ", told, insert);
  return () => {
    clearInterval(waiting);
    model.off("change:cell", show);
  };
}

export default { render };
