// Sorting by the headers' buttons and filtering by the form above a table; everything else is plain HTML.
{
  const number = new Intl.Collator("en", { numeric: true });
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();

  function sortBy(table, header) {
    const column = header.cellIndex, down = header.getAttribute("aria-sort") === "ascending";
    const sign = down ? -1 : 1, missing = (text) => text === "" || text === "nan";
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [left, right] = [value(a, column), value(b, column)];
      if (missing(left) || missing(right)) return missing(left) - missing(right); // always at the end
      const difference = Number(left) - Number(right);
      return sign * (Number.isNaN(difference) ? number.compare(left, right) : difference);
    });
    table.tBodies[0].append(...rows);
    table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
  }

  function filter(table, form) {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const choices = [...form.querySelectorAll("select")].filter((select) => select.value);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word)) ||
        !choices.every((select) => value(row, Number(select.dataset.column)) === select.value);
      shown += !row.hidden;
    }
    form.querySelector("output").textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
  }

  function fill(select, table) {
    const values = new Set([...table.tBodies[0].rows].map((row) => value(row, Number(select.dataset.column))));
    [...values].sort(number.compare).forEach((each) => select.add(new Option(each)));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", (event) => {
      if (event.target.matches("button")) sortBy(table, event.target.closest("th"));
    });
  }
  for (const form of document.querySelectorAll("form[data-table]")) {
    const table = document.getElementById(form.dataset.table);
    form.querySelectorAll("select").forEach((select) => fill(select, table));
    form.addEventListener("input", () => filter(table, form));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => filter(table, form)));
    filter(table, form);
  }

  for (const place of document.querySelectorAll("[data-chart]")) {
    const chart = JSON.parse(document.getElementById(place.dataset.chart).textContent);
    const actions = { export: true, source: false, compiled: false, editor: false };
    vegaEmbed(place, chart, { renderer: "svg", actions, downloadFileName: place.dataset.name })
      .catch((error) => { place.textContent = `This chart could not be drawn: ${error.message}`; console.error(error); });
  }
}
