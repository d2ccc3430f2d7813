// Files and folders dropped or chosen → one request a file, with its progress. At the end the page is told once.

const AT_ONCE = 2; // requests on their way; more only share the same disk
const SKIPPED = /(^|\/)(\.|~\$|node_modules\/|__pycache__\/|Thumbs\.db$)/; // what a scan of a folder skips, too

export default function ({ data: packed, parentElement, setTriggerValue }) {
  const data = JSON.parse(new TextDecoder().decode(packed));
  let host = parentElement.querySelector(".upload");
  if (!host) {
    host = build(parentElement.appendChild(make("div", "upload")));
    host.queue = [];
    host.running = 0;
  }
  host.data = data;
  host.finished = (result) => setTriggerValue("finished", result);
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  return element;
}

function build(host) {
  const drop = make("div", "drop");
  const files = chooser(host, false);
  const folder = chooser(host, true);
  const buttons = make("div", "buttons");
  buttons.append(button("Choose files", () => files.click()), button("Choose a folder", () => folder.click()));
  drop.append(make("strong", "", "Drop files or a whole folder here"), buttons, files, folder,
    make("p", "quiet", "PDF, Word, PowerPoint, Excel, CSV, web pages, Markdown, text, e-mail and more. They are copied to this machine’s Footnote, nowhere else."));
  drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    // entries must be taken before the first await: afterwards the browser has emptied the list
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const found = [];
    for (const entry of entries) await walk(entry, "", found);
    add(host, found);
  };
  const progress = make("div");
  progress.setAttribute("role", "status");
  host.append(drop, progress, make("ul"));
  host.progress = progress;
  host.list = host.querySelector("ul");
  return host;
}

function button(label, act) {
  const element = make("button", "", label);
  element.type = "button";
  element.onclick = act;
  return element;
}

function chooser(host, folder) {
  const input = make("input");
  input.type = "file";
  input.multiple = true;
  if (folder) input.webkitdirectory = true;
  input.setAttribute("aria-label", folder ? "Choose a folder" : "Choose files");
  input.onchange = () => {
    add(host, [...input.files].map((file) => ({ file, label: file.webkitRelativePath || file.name })));
    input.value = "";
  };
  return input;
}

async function walk(entry, path, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, label: path + entry.name });
    return;
  }
  const reader = entry.createReader();
  for (;;) { // a reader gives at most a hundred entries a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return;
    for (const each of some) await walk(each, `${path}${entry.name}/`, found);
  }
}

function add(host, found) {
  const wanted = found.filter(({ label }) => !SKIPPED.test(label));
  if (wanted.length === 0) return;
  if (host.running === 0 && host.queue.length === 0) {
    host.list.replaceChildren();
    host.total = host.done = host.kept = 0;
  }
  for (const each of wanted) {
    each.row = make("li");
    each.row.append(make("span", "name", each.label), make("span", "state", "waiting"));
    host.list.append(each.row);
    host.queue.push(each);
  }
  host.total += wanted.length;
  summary(host);
  while (host.running < AT_ONCE && host.queue.length) next(host);
}

function summary(host) {
  const line = make("div", "summary");
  const refused = host.done - host.kept;
  line.append(make("span", "", host.done < host.total ? `Sending ${host.done + 1} of ${host.total}` : `${host.kept} of ${host.total} received`));
  if (refused) line.append(make("span", "", `${refused} refused`));
  const bar = make("progress");
  bar.max = host.total;
  bar.value = host.done;
  host.progress.replaceChildren(line, bar);
}

async function next(host) {
  const item = host.queue.shift();
  host.running += 1;
  const state = item.row.querySelector(".state");
  const { collection, token, path, limit_mb: limit } = host.data;
  let problem = null;
  if (item.file.size > limit * 1e6) problem = { message: `Larger than ${limit} MB.`, cure: "Put it into a folder on this machine and add that folder." };
  else if (item.file.size === 0) problem = { message: "The file is empty.", cure: "" };
  else problem = await send(item, `${path}?${new URLSearchParams({ collection, label: item.label })}`, token, state);
  host.running -= 1;
  host.done += 1;
  if (problem) {
    item.row.classList.add("refused");
    state.textContent = "refused";
    item.row.append(make("span", "why", `${problem.message} ${problem.cure ?? ""}`));
  } else {
    host.kept += 1;
    state.textContent = "received";
  }
  summary(host);
  if (host.queue.length) next(host);
  else if (host.running === 0) host.finished({ kept: host.kept, refused: host.done - host.kept });
}

function send(item, address, token, state) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest(); // fetch cannot tell how much has been sent
    request.open("POST", address);
    request.setRequestHeader("X-Footnote-Token", token);
    request.upload.onprogress = (event) => { if (event.lengthComputable) state.textContent = `${Math.floor((100 * event.loaded) / event.total)} %`; };
    request.onload = () => {
      if (request.status === 200) return resolve(null);
      try {
        resolve(JSON.parse(request.responseText));
      } catch {
        resolve({ message: "The file could not be sent.", cure: "Try again." });
      }
    };
    request.onerror = () => resolve({ message: "The connection was lost.", cure: "Check that Footnote is running, then choose the file again." });
    request.send(item.file);
  });
}
