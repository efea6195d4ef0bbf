// A page may ask JupyterLab for its commands by links with these attributes; one that is asked so does as if clicked.
function link(command, args) {
  const made = document.createElement("span");
  made.hidden = true;
  made.dataset.commandlinkerCommand = command;
  made.dataset.commandlinkerArgs = JSON.stringify(args);
  return made;
}

function render({ model, el }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "jupyter-button";
  button.textContent = "Insert below";
  const insert = link("notebook:insert-cell-below", {});
  const write = link("notebook:replace-selection", {});
  const show = () => {
    el.style.display = model.get("cell") ? "" : "none";
    write.dataset.commandlinkerArgs = JSON.stringify({ text: model.get("cell").trimEnd() });
  };
  // A notebook that is not trusted, and any other front end than JupyterLab, inserts nothing: say what to do instead.
  const told = document.createElement("span");
  told.setAttribute("role", "status");
  const instead = async () => {
    const copied = await navigator.clipboard?.writeText(model.get("cell")).then(() => true, () => false);
    const trust = el.closest(".jp-Notebook") ? " Or trust this notebook (in the command palette) and press again." : "";
    told.textContent = `${copied ? "Copied: paste it into a new cell." : "Copy the equivalent cell into a new one."}${trust}`;
  };
  // The new cell gets its editor a while after it is made, and nothing is written into a cell that holds anything.
  button.addEventListener("click", () => {
    const home = el.closest(".jp-Cell");
    const cells = () => home?.closest(".jp-Notebook")?.querySelectorAll(".jp-Cell").length;
    const before = cells();
    told.textContent = "";
    insert.click();
    setTimeout(() => {
      if (cells() === before && !document.querySelector(".jp-Dialog")) instead();
    }, 1500);
    const waiting = setInterval(() => {
      const cell = home?.closest(".jp-Notebook")?.querySelector(".jp-Cell.jp-mod-active");
      const editor = cell !== home && cell?.querySelector(".cm-content");
      if (editor && !editor.textContent.trim()) {
        clearInterval(waiting);
        write.click();
      }
    }, 50);
    setTimeout(() => clearInterval(waiting), 20000);
  });
  model.on("change:cell", show);
  show();
  el.append(button, " ", told, insert, write);
  return () => model.off("change:cell", show);
}

export default { render };
