"use strict";
for (const table of document.querySelectorAll("table[data-name]")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent || "figure";
    button.title = "Sort by this column";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.value;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy";
  copy.textContent = "Copy as CSV";
  copy.addEventListener("click", async () => {
    const cell = (c) => `"${(c.dataset.value || c.textContent).replaceAll('"', '""')}"`;
    const text = [...table.rows].map((row) => [...row.cells].map(cell).join(",")).join("\r\n");
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      area.setAttribute("aria-label", "CSV");
      copy.after(area);
      area.select();
    }
  });
  table.parentElement.after(copy);
}
const hover = document.createElement("div");
hover.id = "hover";
hover.hidden = true;
document.body.append(hover);
document.addEventListener("pointermove", (event) => {
  const mark = event.target.closest?.("svg :has(> title)");
  const title = mark?.querySelector(":scope > title");
  hover.hidden = !title;
  if (!title) return;
  hover.textContent = title.textContent;
  hover.style.left = `${Math.min(event.clientX + 12, innerWidth - 180)}px`;
  hover.style.top = `${event.clientY + 14}px`;
});
