// The text of a page as blocks → headings, paragraphs, tables, with the quoted words marked and scrolled to.

export default function ({ data: packed, parentElement }) {
  const data = JSON.parse(new TextDecoder().decode(packed));
  const host = parentElement.querySelector(".page") ?? parentElement.appendChild(make("div", "page"));
  const seen = JSON.stringify(data);
  if (host.dataset.seen === seen) return;
  host.dataset.seen = seen;
  host.replaceChildren();
  if (data.before) host.append(make("div", "gap", data.before));
  let table = null;
  for (const block of data.blocks) {
    if (block.kind === "row") {
      if (!table) {
        const wide = make("div", "wide");
        table = make("table");
        wide.append(table);
        host.append(wide);
      }
      const row = make("tr", block.marked ? "marked" : "");
      block.cells.forEach((cell) => row.append(make(block.header ? "th" : "td", "", cell)));
      table.append(row);
      continue;
    }
    table = null;
    const element = block.kind === "heading" ? make("h4", `l${block.level}`) : make("p", block.kind === "item" ? "item" : "");
    for (const [text, marked] of block.pieces) element.append(marked ? make("mark", "", text) : document.createTextNode(text));
    host.append(element);
  }
  if (data.after) host.append(make("div", "gap", data.after));
  const first = host.querySelector("mark, tr.marked");
  if (first) requestAnimationFrame(() => first.scrollIntoView({ block: "center" }));
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  return element;
}
