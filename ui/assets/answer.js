// One answer → its sources, sentences with [n] buttons, and the line that says how it was made.
// Everything that comes from documents or a model is set as textContent: markup in it stays text.

export default function ({ data: packed, parentElement, setTriggerValue }) {
  const data = JSON.parse(new TextDecoder().decode(packed));
  const host = parentElement.querySelector(".answer") ?? parentElement.appendChild(make("div", "answer"));
  host.tell = (what) => setTriggerValue("opened", what);  // parts that stay as they are must not keep an earlier drawing's
  const open = (what) => host.tell(what);
  if (data.arrive) arrive(data.arrive);
  part(host, "step", data.step, () => step(data.step));
  part(host, "trouble", data.trouble, () => trouble(data.trouble));
  part(host, "sources", data.refused ? null : [data.sources, data.opened], () => sources(data, open));
  sentences(host, data, open);
  part(host, "refusal", data.refused ? [data.sources, data.opened] : null, () => refusal(data, open));
  part(host, "notes", data.notes, () => notes(data.notes));
  part(host, "meta", data.meta, () => meta(data));
}

// Bring the newest question to the top, once: when it is asked, and when its conversation is opened.
function arrive(name) {
  if (window.footnoteArrived === name) return;
  window.footnoteArrived = name;
  setTimeout(() => {
    const questions = document.querySelectorAll("h2.fn-question");
    if (questions.length > 1) questions[questions.length - 1].scrollIntoView({ block: "start", behavior: "instant" });
  }, 60);
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  return element;
}

// Draw a part only when what it shows has changed, so that focus and selection survive the next redraw.
function part(host, name, shows, draw) {
  const empty = !shows || (Array.isArray(shows) && shows.length === 0);
  let slot = host.querySelector(`:scope > [data-part="${name}"]`);
  if (!slot) {
    slot = make("div");
    slot.dataset.part = name;
    host.appendChild(slot);
  }
  const seen = empty ? "" : JSON.stringify(shows);
  if (slot.dataset.seen === seen) return;
  slot.dataset.seen = seen;
  slot.replaceChildren(...(empty ? [] : [draw()]));
}

function step(text) {
  const line = make("div", "step quiet");
  line.setAttribute("role", "status");
  line.append(make("span", "dot"), make("span", "", text));
  return line;
}

function trouble({ message, cure }) {
  const box = make("div", "trouble");
  box.setAttribute("role", "alert");
  box.append(make("div", "", message));
  if (cure) box.append(make("div", "quiet", cure));
  return box;
}

function sources(data, open) {
  const list = make("ul", "sources");
  list.setAttribute("aria-label", "Sources");
  const unused = data.sources.filter((source) => source.used === false);
  const folds = unused.length > 1 && unused.length < data.sources.length;
  list.classList.toggle("folded", folds && !unused.some((source) => data.opened === `p${data.sources.indexOf(source)}`));
  data.sources.forEach((source, index) => {
    const item = make("li", source.used === false ? "source unused" : "source");
    const button = make("button");
    button.type = "button";
    button.title = source.where + (source.used === false ? " (read, not cited)" : "");
    button.setAttribute("aria-label", `Source ${source.n}: ${source.where}`);
    button.setAttribute("aria-pressed", String(data.opened === `p${index}`));
    button.append(make("span", "number", source.n), make("span", "name", source.name));
    if (source.page) button.append(make("span", "page", source.page));
    button.onclick = () => open({ passage: index });
    item.append(button);
    list.append(item);
  });
  if (folds) {
    const item = make("li", "source more");
    const button = make("button", "name", `${unused.length} more read`);
    button.type = "button";
    button.onclick = () => list.classList.remove("folded");
    item.append(button);
    list.append(item);
  }
  return list;
}

function sentences(host, data, open) {
  let slot = host.querySelector(':scope > [data-part="text"]');
  if (!slot) {
    slot = make("div", "text");
    slot.dataset.part = "text";
    slot.setAttribute("role", "log");
    slot.setAttribute("aria-live", "polite");
    host.appendChild(slot);
  }
  data.sentences.forEach((sentence, index) => {
    const seen = JSON.stringify(sentence);
    const old = slot.children[index];
    const drawn = old && old.dataset.seen === seen ? old : draw(sentence, index, open, host);
    drawn.dataset.seen = seen;
    if (data.step && !old) drawn.classList.add("new");
    if (!old) slot.append(drawn);
    else if (old !== drawn) old.replaceWith(drawn);
    drawn.querySelectorAll(".chip").forEach((chip, at) => {
      chip.setAttribute("aria-pressed", String(data.opened === `s${index}.${at}`));
    });
  });
  while (slot.children.length > data.sentences.length) slot.lastChild.remove();
}

function draw(sentence, index, open, host) {
  const element = make("span", "sentence");
  const cells = sentence.cells;
  if (sentence.line) element.classList.add("line");
  if (cells) {
    cells.forEach((cell) => element.append(make("span", "cell", cell)));
  }
  // the last word and its footnotes stay on one line
  const [, start, end] = cells ? [] : sentence.text.match(/^([^]*?)(\S{0,24})$/);
  const [from, to] = marked(sentence);
  if (start) write(element, start, from, to);
  const tail = make("span", "tail");
  if (end) write(tail, end, from - start.length, to - start.length);
  sentence.citations.forEach((citation, at) => {
    const chip = make("button", "chip", citation.n);
    chip.type = "button";
    chip.setAttribute("aria-label", `Footnote ${citation.n}: ${citation.where}. Open the source.`);
    chip.onclick = () => { hide(host); open({ sentence: index, citation: at }); };
    chip.onmouseenter = chip.onfocus = () => show(host, chip, citation);
    chip.onmouseleave = chip.onblur = () => hide(host);
    tail.append(chip);
  });
  element.append(tail, document.createTextNode(" "));
  return element;
}

// where the short answer stands in the sentence; nowhere if it is not marked, or is nearly all of it
function marked(sentence) {
  const key = sentence.key || "";
  const at = key && !sentence.cells && key.length < 0.7 * sentence.text.length ? sentence.text.indexOf(key) : -1;
  return at < 0 ? [0, 0] : [at, at + key.length];
}

function write(element, text, from, to) {
  const [left, right] = [Math.max(0, Math.min(from, text.length)), Math.max(0, Math.min(to, text.length))];
  if (left) element.append(document.createTextNode(text.slice(0, left)));
  if (right > left) element.append(make("strong", "", text.slice(left, right)));
  if (right < text.length) element.append(document.createTextNode(text.slice(Math.max(left, right))));
}

function show(host, chip, citation) {
  hide(host);
  const card = make("div", "card");
  card.append(make("div", "quote", `“${citation.quote}”`), make("div", "quiet", citation.where));
  host.append(card);
  const around = host.getBoundingClientRect();
  const at = chip.getBoundingClientRect();
  card.style.top = `${at.bottom - around.top + 6}px`;
  card.style.left = `${Math.max(0, Math.min(at.left - around.left - 24, around.width - card.offsetWidth))}px`;
}

function hide(host) {
  host.querySelectorAll(".card").forEach((card) => card.remove());
}

function refusal(data, open) {
  const box = make("div");
  box.append(make("p", "refusal", data.refused));
  if (data.sources.length === 0) {
    box.append(make("div", "quiet", "No passage comes near the question. Other words, or other documents, may help."));
    return box;
  }
  box.append(make("div", "quiet", "The nearest passages, in case they help:"));
  const list = make("ul", "nearest");
  data.sources.forEach((source, index) => {
    const item = make("li");
    const button = make("button");
    button.type = "button";
    button.setAttribute("aria-pressed", String(data.opened === `p${index}`));
    button.append(make("span", "where", source.where), make("span", "snippet quiet", source.snippet));
    button.onclick = () => open({ passage: index });
    item.append(button);
    list.append(item);
  });
  box.append(list);
  return box;
}

function notes(lines) {
  const list = make("ul", "notes quiet");
  lines.forEach((line) => list.append(make("li", "", line)));
  return list;
}

function meta(data) {
  const line = make("div", "meta quiet");
  data.meta.forEach((each) => line.append(make("span", "", each)));
  if (data.copy) {
    const button = make("button", "", "Copy with sources");
    button.type = "button";
    button.onclick = async () => {
      try {
        await navigator.clipboard.writeText(data.copy);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Your browser did not allow copying";
      }
    };
    line.append(button);
  }
  return line;
}
