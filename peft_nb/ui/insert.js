// The new cell gets its editor a while after it is made, and nothing is written into a cell that holds anything.
const home = this.closest(".jp-Cell");
const [insert, write] = this.parentElement.querySelectorAll("[data-commandlinker-command]");
insert.click();
const waiting = setInterval(() => {
  const cell = home.closest(".jp-Notebook").querySelector(".jp-Cell.jp-mod-active");
  const editor = cell !== home && cell?.querySelector(".cm-content");
  if (editor && !editor.textContent.trim()) {
    clearInterval(waiting);
    write.click();
  }
}, 50);
setTimeout(() => clearInterval(waiting), 20000);
