// The page's own script: takes files, tells which is which, asks for the segmentation, shows it. Nothing from elsewhere.
"use strict";

const SCANS = { flair: "FLAIR", t1: "T1", t1ce: "T1 with contrast", t2: "T2" };
const STAGES = { wait: "waiting", read: "reading", segment: "segmenting", write: "writing", draw: "drawing" };
const REGIONS = { WT: "Whole tumour (WT)", TC: "Tumour core (TC)", ET: "Enhancing (ET)" };
const AT_ONCE = 3; // files on their way
const ALIVE_MS = 20000;
const ASK_MS = 300;
const WANTED = /\.(nii|nii\.gz|dcm|ima|json|csv|tsv|nrrd|mha|mhd|mgz|hdr|img)$/i; // the rest of a folder stays at home

const $ = (id) => document.getElementById(id);
const show = (id, shown = true) => { $(id).hidden = !shown; };

function make(tag, text, more = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text; // never as HTML: names come from files
  Object.assign(element, more);
  return element;
}

let session = null; // {id, model}
let scans = null; // what the server tells of the files
let round = 0; // of files: what belongs to an earlier one is not shown

// --- the server ---------------------------------------------------------------------------------------------

class Fault extends Error {
  constructor(text, status) { super(text); this.status = status; }
}

async function ask(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, { method, body, credentials: "same-origin" });
  } catch {
    throw new Fault("The server does not answer. Is it still running?", 0);
  }
  const content = await answer.json().catch(() => null);
  if (!answer.ok) throw new Fault(content?.fault ?? `The server answers ${answer.status}.`, answer.status);
  return content;
}

const of = (path = "") => `sessions/${session.id}${path}`;

function tell(error) {
  if (!(error instanceof Fault)) console.error(error);
  if (error.status === 401) { show("login"); show("intake", false); $("token").focus(); return; }
  $("fault").textContent = error.message;
  show("fault");
}

async function begin() {
  show("fault", false);
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", location.pathname); // it stays in no address bar
    await ask("POST", "login", JSON.stringify({ token }));
  }
  session = await ask("POST", "sessions");
  const { model } = session;
  $("model").textContent = `by ${model.name} version ${model.version}${model.description ? `: ${model.description}` : ""}`;
  show("login", false);
  show("intake");
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("POST", "login", JSON.stringify({ token: $("token").value.trim() }));
    await begin();
  } catch (error) {
    tell(error.status === 401 ? new Fault("That is not the token.", 0) : error);
  }
});

setInterval(() => { if (session) ask("POST", of("/alive")).catch(ended); }, ALIVE_MS);
function ended(error) {
  if (error.status !== 404) return;
  session = null;
  tell(error);
}
addEventListener("pagehide", () => { if (session) navigator.sendBeacon(of("/end")); });
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

// --- files --------------------------------------------------------------------------------------------------

// Files of what was dropped: [name with its folders, File].
async function dropped(items) {
  const entries = [...items].filter((item) => item.kind === "file").map((item) => [item.webkitGetAsEntry?.(), item.getAsFile()]);
  const found = [];
  for (const [entry, file] of entries) {
    if (!entry) found.push([file.name, file]);
    else await walk(entry, "", found);
  }
  return found;
}

async function walk(entry, above, found) {
  const name = above ? `${above}/${entry.name}` : entry.name;
  if (entry.isFile) {
    found.push([name, await new Promise((done, failed) => entry.file(done, failed))]);
    return;
  }
  const reader = entry.createReader();
  for (;;) { // a browser hands out a folder by the hundred
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return;
    for (const child of some) await walk(child, name, found);
  }
}

async function take(files) {
  if (!session) return;
  const mine = round;
  show("fault", false);
  const all = files.filter(([name]) => !name.split("/").some((part) => part.startsWith(".")));
  const wanted = all.filter(([name]) => WANTED.test(name) || !name.split("/").pop().includes("."));
  const left = all.length - wanted.length;
  if (!wanted.length) {
    tell(new Fault(all.length ? `No scan among ${all.length === 1 ? all[0][0] : `${all.length} files`}: expected .nii.gz or .nii.` : "Nothing was dropped."));
    return;
  }
  show("choice", false);
  show("uploads-fold");
  $("uploads-fold").open = true;
  $("uploads-sum").textContent = `Sending ${wanted.length} ${wanted.length === 1 ? "file" : "files"}…`;
  const queue = [...wanted];
  const began = performance.now();
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (queue.length && mine === round) await send(...queue.shift());
  }));
  if (mine !== round) return;
  $("uploads").dataset.seconds = ((performance.now() - began) / 1000).toFixed(2);
  const lines = [...$("uploads").children];
  const refused = lines.filter((line) => line.dataset.refused).length;
  const [sum, bytes] = [lines.length - refused, lines.reduce((all, line) => all + Number(line.dataset.bytes ?? 0), 0)];
  $("uploads-sum").textContent = `${sum} ${sum === 1 ? "file" : "files"}, ${(bytes / 2 ** 20).toFixed(1)} MiB`
    + (refused ? `; ${refused} refused` : "") + (left ? `; ${left} others of the folder stay where they are` : "");
  $("uploads-fold").open = refused > 0;
  drop.classList.add("small");
  await look();
}

function send(name, file) {
  const old = [...$("uploads").children].find((line) => line.dataset.name === name);
  const line = make("li");
  line.dataset.name = name;
  const state = make("span", "0 %", { className: "state" });
  line.append(state, make("span", name));
  if (old) old.replaceWith(line); else $("uploads").append(line);
  return new Promise((done) => {
    const request = new XMLHttpRequest(); // fetch tells no progress of what it sends
    request.open("PUT", of(`/file?name=${encodeURIComponent(name)}`));
    request.upload.onprogress = (event) => { state.textContent = `${Math.floor(100 * event.loaded / Math.max(event.total, 1))} %`; };
    request.onload = () => {
      if (request.status < 300) { state.textContent = `${(file.size / 2 ** 20).toFixed(1)} MiB`; line.dataset.bytes = file.size; done(); return; }
      let fault = `The server answers ${request.status}.`;
      try { fault = JSON.parse(request.responseText).fault; } catch { /* no JSON: its number must do */ }
      refuse(line, state, fault, done);
    };
    request.onerror = () => refuse(line, state, `${name}: it could not be sent. Is the server still running?`, done);
    request.send(file);
  });
}

function refuse(line, state, fault, done) {
  state.textContent = "refused";
  line.dataset.refused = "yes";
  line.append(make("div", fault, { className: "bad" }));
  done();
}

const drop = $("drop");
for (const kind of ["dragenter", "dragover"]) addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (!session || $("intake").hidden) return;
  dropped(event.dataTransfer.items).then(take).catch(tell);
});
$("pick-files").addEventListener("click", () => $("files").click());
$("pick-folder").addEventListener("click", () => $("folder").click());
for (const id of ["files", "folder"]) $(id).addEventListener("change", () => {
  const files = [...$(id).files].map((file) => [file.webkitRelativePath || file.name, file]);
  $(id).value = "";
  take(files).catch(tell);
});

$("try").addEventListener("click", async () => {
  $("try").disabled = true;
  try {
    await forget();
    show("uploads-fold");
    $("uploads-fold").open = false;
    $("uploads-sum").textContent = "A tumour is being simulated…";
    await ask("POST", of("/phantom"));
    $("uploads-sum").textContent = "A simulated case, no patient’s";
    drop.classList.add("small");
    await look();
    await segment();
  } catch (error) { tell(error); }
  $("try").disabled = false;
});

// --- which is which -----------------------------------------------------------------------------------------

async function look() {
  scans = await ask("GET", of("/scans"));
  const { cases, files, fault, notes } = scans;
  if (!files.length && !cases.length && !fault) return;
  show("several", cases.length > 1);
  $("case").replaceChildren(...cases.map((one) => make("option", one.id, { value: one.id })));
  $("choice-fault").textContent = fault ?? "";
  show("choice-fault", Boolean(fault));
  $("choice-notes").replaceChildren(...notes.map((note) => make("li", note)));
  fill();
  show("choice", files.length > 0 || cases.length > 0);
  if (!files.length && fault) tell(new Fault(fault));
}

// What all names begin with, up to a folder: on a phone it would hide what differs.
const shared = (names) => names.length < 2 ? "" : names.reduce((a, b) => { let n = 0; while (a[n] && a[n] === b[n]) n += 1; return a.slice(0, n); }).replace(/[^/]*$/, "");

const asRead = () => scans.cases.find((one) => one.id === $("case").value)?.scans ?? scans.guess;

function fill() {
  const read = asRead();
  const above = shared(scans.files).length;
  $("scans").replaceChildren(...session.model.modalities.map((modality) => {
    const select = make("select", undefined, { id: `scan-${modality}` });
    select.append(make("option", "choose…", { value: "" }), ...scans.files.map((name) => make("option", name.slice(above), { value: name })));
    select.value = read[modality] ?? "";
    const head = make("th");
    head.scope = "row";
    head.append(make("label", SCANS[modality] ?? modality, { htmlFor: select.id }));
    const cell = make("td");
    cell.append(select);
    const row = make("tr");
    row.append(head, cell);
    return row;
  }));
}

$("case").addEventListener("change", fill);

// The case as its names tell it, or what the person has chosen in its place.
function choice() {
  const named = Object.fromEntries(session.model.modalities.map((m) => [m, $(`scan-${m}`).value]).filter(([, name]) => name));
  const read = scans.cases.find((one) => one.id === $("case").value);
  const same = read && session.model.modalities.every((m) => !scans.files.includes(read.scans[m] ?? "") || read.scans[m] === named[m]);
  return same ? { case: read.id } : { scans: named };
}

// --- the work -----------------------------------------------------------------------------------------------

$("segment").addEventListener("click", () => segment().catch(tell));
$("anew").addEventListener("click", () => forget().catch(tell));

async function forget() {
  round += 1;
  for (const id of ["fault", "choice", "progress", "result", "uploads-fold"]) show(id, false);
  drop.classList.remove("small");
  $("uploads").replaceChildren();
  $("view").removeAttribute("src");
  const old = session;
  session = null;
  if (old) await ask("POST", `sessions/${old.id}/end`).catch(() => {});
  await begin();
}

async function segment() {
  show("fault", false);
  show("result", false);
  const mine = round;
  $("segment").disabled = true;
  try {
    await ask("POST", of("/segment"), JSON.stringify(choice()));
    show("progress");
    $("progress").scrollIntoView({ block: "nearest" });
    for (;;) {
      const work = await ask("GET", of());
      if (mine !== round) return;
      progress(work);
      if (work.stage === null) {
        if (work.fault) throw new Fault(work.fault);
        await present(work);
        return;
      }
      await new Promise((done) => setTimeout(done, ASK_MS));
    }
  } finally {
    $("segment").disabled = false;
  }
}

function progress(work) {
  $("stages").replaceChildren(...Object.entries(STAGES).map(([stage, word]) => {
    const seconds = work.seconds[stage];
    const now = work.stage === stage;
    const item = make("li", word, { className: now ? "now" : seconds === undefined ? "" : "done" });
    item.append(make("span", seconds === undefined ? "\u00a0" : `${seconds.toFixed(1)} s`));
    return item;
  }));
  const words = work.fault ? "It could not be segmented." : work.stage ? `${STAGES[work.stage]}…` : "Done.";
  if ($("progress-words").textContent !== words) $("progress-words").textContent = words;
  $("work-notes").replaceChildren(...work.notes.map((note) => make("li", note)));
}

function rows(table, heads, lines) {
  const head = make("tr");
  head.append(...heads.map((text) => make("th", text, { scope: "col" })));
  const thead = make("thead");
  thead.append(head);
  const body = make("tbody");
  body.append(...lines.map(([first, ...rest]) => {
    const row = make("tr");
    row.append(make("th", first, { scope: "row" }), ...rest.map((text) => make("td", text)));
    return row;
  }));
  table.replaceChildren(thead, body);
}

async function present({ result }) {
  $("result-name").textContent = `${result.simulated ? "Simulated case" : "Case"} ${result.case}`;
  $("known").textContent = result.known ?? "";
  show("known", Boolean(result.known));
  const { dice } = result;
  rows($("volumes"), ["Region", "ml", ...(dice ? ["Dice"] : [])], Object.entries(result.volumes_ml).map(
    ([region, ml]) => [REGIONS[region] ?? region, ml.toFixed(1), ...(dice ? [dice[region].toFixed(2)] : [])]));
  const others = result.other_lesions.count;
  $("lesions-title").textContent = `Lesions: ${result.lesions.length + others}`;
  rows($("lesions"), ["Lesion", "WT ml", "TC ml", "ET ml", "Voxel i j k", ...(dice ? ["Outcome"] : [])], [
    ...result.lesions.map(({ ml, voxel, outcome }, n) => [
      String(n + 1), ...Object.values(ml).map((one) => one.toFixed(2)), voxel.join(" "), ...(dice ? [outcome] : [])]),
    ...(others ? [[`${others} more`, result.other_lesions.ml.toFixed(2), "", "", "", ...(dice ? [""] : [])]] : []),
  ]);
  const names = { segmentation: "Segmentation (.nii.gz)", "dicom-seg": "DICOM-SEG (.dcm)", pdf: "Sheet (PDF)", png: "Sheet (PNG)", provenance: "Provenance (.json)" };
  $("downloads").replaceChildren(
    ...result.downloads.map((kind) => [kind, names[kind]]).map(([kind, text]) => make("a", text, { className: kind === "segmentation" ? "button main" : "button", href: of(`/download/${kind}`), download: "", id: `download-${kind}` })),
    make("button", "Start anew", { type: "button", onclick: () => forget().catch(tell) }));
  origin(result);
  $("view").src = of("/view");
  show("result");
  $("result").scrollIntoView({ block: "start" });
}

function origin({ provenance, values, tiles }) {
  const { model } = provenance;
  const lines = [
    ["Model", `${model.name} version ${model.version}, exported by ${model.exported_by}`],
    ["Its card, sha256", model.tfbrats_json_sha256],
    ["Segmentation, sha256", provenance.segmentation.sha256],
    ["Label values", values],
    ...provenance.inputs.map((one) => [SCANS[one.modality] ?? one.modality, `${one.file}, sha256 ${one.sha256}`]),
    ...(tiles ? [["Tiles", tiles]] : []),
    ["Written by", provenance.written_by],
    ["Intended use", provenance.intended_use],
  ];
  $("origin").replaceChildren(...lines.flatMap(([term, text]) => [make("dt", term), make("dd", text)]));
}

begin().catch(tell);
