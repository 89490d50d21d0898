
// Sortable tables.
const FIRST_ROWS = 40;
const cellText = (x) => (x === null ? "–" : typeof x === "number" ? full(x) : x);
const NOWHERE = Symbol("nothing to sort by");

/** A table of `{keys, titles, rows}`; the column `header` names the row. Options: `caption`, `sort` (a key to begin
 * with), `filter` (a search field), `hide` (keys). */
function dataTable(sheet, { caption, header = 0, sort, filter = false, hide = [] }) {
  const shown = sheet.keys.map((_, i) => i).filter((i) => !hide.includes(sheet.keys[i]));
  const words = shown.filter((i) => sheet.rows.some((row) => typeof row[i] === "string" && isNaN(row[i])));
  const state = { by: sheet.keys.indexOf(sort), descending: true, all: false, words: "" };
  const body = el("tbody");
  const heads = shown.map((i) => {
    const head = el("th", { scope: "col", class: words.includes(i) && "words" },
      el("button", { type: "button", title: about[sheet.keys[i]]?.about, click: () => sortBy(i) }, sheet.titles[i]));
    head.column = i;
    return head;
  });
  const more = el("button", { type: "button", class: "more", click: () => { state.all = true; fill(); } });
  const status = el("span", { class: "visually-hidden", role: "status" });

  function sortBy(i) {
    state.descending = state.by === i ? !state.descending : true;
    state.by = i;
    fill();
    status.textContent = `Sorted by ${sheet.titles[i]}, ${state.descending ? "descending" : "ascending"}`;
  }
  function key(row) {
    const x = row[state.by];
    if (x === null || x === "") return NOWHERE;
    return typeof x === "string" && x.trim() !== "" && !isNaN(x) ? Number(x) : x;
  }
  function compare(a, b) {
    const [x, y] = [key(a), key(b)];
    if (x === NOWHERE || y === NOWHERE) return (x === NOWHERE) - (y === NOWHERE);
    if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
    const order = typeof x === "number" ? x - y : x < y ? -1 : x > y ? 1 : 0;
    return state.descending ? -order : order;
  }
  function fill() {
    const found = sheet.rows.filter((row) => !state.words || row.some((x) => typeof x === "string" && x.includes(state.words)));
    if (state.by >= 0) found.sort(compare);
    for (const head of heads) {
      if (head.column === state.by) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
    const rows = state.all ? found : found.slice(0, FIRST_ROWS);
    body.replaceChildren(...rows.map((row) => el("tr", {}, shown.map((i) => {
      const classes = [words.includes(i) && "words", row[i] === null && "missing"].filter(Boolean).join(" ") || null;
      return i === header ? el("th", { scope: "row", class: classes }, cellText(row[i])) : el("td", { class: classes }, cellText(row[i]));
    }))));
    more.hidden = rows.length === found.length;
    more.textContent = `Show all ${plural(found.length, "row")}`;
  }
  fill();
  const search = filter
    ? el("label", {}, "Find", el("input", { type: "search", placeholder: "part of a name", input: (e) => { state.words = e.target.value; fill(); } }))
    : null;
  const table = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", { class: "data" }, el("caption", { class: "visually-hidden" }, caption), el("thead", {}, el("tr", {}, heads)), body));
  const out = el("div", {}, table, more, status);
  out.search = search;
  return out;
}

/** A folded table, made when it is first opened: the same numbers as a chart's. */
function asTable(sheet, caption) {
  const details = el("details", {}, el("summary", {}, "Numbers as a table"));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(dataTable(sheet(), { caption }));
  });
  return details;
}
