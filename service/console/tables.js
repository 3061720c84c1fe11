// Tables that find no room: each row becomes a list, its cells named by their columns. No column is ever cut off.

/** Keep every table in a `.scroll` readable, as rows come and go and the room changes. */
export function keepReadable() {
  for (const box of document.querySelectorAll(".scroll")) {
    const table = box.querySelector("table");
    const fit = () => lay(box, table);
    new MutationObserver(fit).observe(table.tBodies[0], { childList: true });
    new ResizeObserver(() => requestAnimationFrame(fit)).observe(box); // a change within the call would be told once more
  }
}

function lay(box, table) {
  table.classList.remove("stacked");
  if (box.scrollWidth <= box.clientWidth) return;
  const names = [...table.tHead.rows[0].cells].map((header) => header.textContent);
  for (const { cells } of table.tBodies[0].rows) [...cells].forEach((cell, column) => (cell.dataset.column = names[column]));
  table.classList.add("stacked");
}
