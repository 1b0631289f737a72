// The worklist. What it shows stands in the address, so that it can be kept as a bookmark.
import { again, encoded, follow, json, link, reportOf, trouble } from "./api.js";
import { bar } from "./findings.js";
import { byId, count, date, fill, label, make, moment, number, person, ranked, score, asSentence, STAND_IN, STATES, view } from "./html.js";

const FILTERS = ["state", "patient", "finding", "from", "to", "sort"];
const PAGE = 50;
const BUSY = 1500, IDLE = 5000, TYPING = 300;
const CHIPS = 3;

const form = byId("filters");
let query = read();
let shown = null; // the status and query that the rows belong to
const retried = new Map(); // each image that is classified once more, and when the result was made that the list still has
let idle = false; // nothing is queued: what is pending is to be asked for
let most = 0; // the most images that waited since the page was opened

function read() {
  const given = new URLSearchParams(location.search);
  return new URLSearchParams([...FILTERS, "offset"].filter(name => given.get(name)).map(name => [name, given.get(name)]));
}

/** Change the address and what is shown; `replace` where going back should not come here again. */
function go(changes, replace = false) {
  for (const [name, value] of Object.entries({ offset: "", ...changes })) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  history[replace ? "replaceState" : "pushState"](null, "", `?${encoded(query)}`);
  renew();
}

function renew() {
  shown = null;
  refresh();
}

async function update() {
  const status = await json("chest-xray/status").catch(problem => {
    showUnknown(problem);
    throw problem;
  });
  showStatus(status);
  const wanted = JSON.stringify([status.complete, status.pending, status.done, status.failed, status.skipped, encoded(query)]);
  if (wanted !== shown) {
    const asked = encoded(query);
    const list = await json(`chest-xray/worklist?limit=${PAGE}&${asked}`);
    if (asked !== encoded(query)) return 0; // changed meanwhile
    showList(list);
    const settled = row => row.state !== "pending" && !retried.has(row.instance); // the status may be older than the list
    shown = list.complete && list.rows.every(settled) ? wanted : null;
  }
  return status.queued || shown === null ? BUSY : IDLE;
}

function showStatus(status) {
  most = status.queued ? Math.max(most, status.queued) : 0;
  const progress = byId("progress");
  progress.hidden = most < 2;
  progress.max = most || 1;
  progress.value = most - status.queued;
  idle = status.ready && !status.queued;
  const waiting = status.queued ? `${count(status.queued, "image is", "images are")} waiting` : status.pending ? "Nothing is being classified" : "Nothing is waiting";
  fill(byId("status"), make("span", { class: status.ready ? "ready" : "unready" }, status.ready ? "Ready" : "Not ready"), status.ready ? waiting : `${asSentence(status.reason)} ${waiting}.`);
  const states = [["", "All", status.done + status.failed + status.skipped + status.pending], ...["done", "pending", "failed", "skipped"].map(state => [state, STATES[state], status[state]])];
  fill(byId("states"), ...states.map(([state, name, many]) => make("label", { class: `chip ${state}` },
    make("input", { type: "radio", name: "state", value: state }), make("span", {}, `${name} `, make("b", {}, number(many))))));
  for (const radio of byId("states").querySelectorAll("input")) radio.checked = radio.value === (query.get("state") ?? "");
}

function showUnknown(problem) {
  byId("progress").hidden = true;
  fill(byId("status"), make("span", { class: "unready" }, problem.status ? "Not known" : "Not answering"), "What is waiting is not known.");
}

function showList(list) {
  const finding = query.get("finding") ?? "";
  fill(form.elements.finding, make("option", { value: "" }, "Any"), ...list.labels.map(name => make("option", { value: name }, label(name))));
  for (const name of FILTERS.slice(1)) if (form.elements[name] !== document.activeElement) form.elements[name].value = query.get(name) ?? "";
  form.hidden = !list.rows.length && !filtered();
  byId("clear").hidden = ![...query.keys()].length;
  byId("top").textContent = finding ? label(finding) : "Highest score";
  byId("stand-in").textContent = STAND_IN;
  byId("stand-in").hidden = !list.rows.some(row => row.weights && row.weights !== "trained");
  const held = document.activeElement.closest("tr")?.dataset.instance;
  fill(byId("results").tBodies[0], ...list.rows.map(row => line(asRetried(row), finding)));
  if (held && document.activeElement === document.body) (linkOf(held) ?? byId("table")).focus({ preventScroll: true });
  byId("results").hidden = !list.rows.length;
  const nothing = byId("nothing");
  nothing.hidden = list.rows.length > 0;
  fill(nothing, ...empty(list).map(sentence => make("p", {}, sentence)));
  pages(list);
  const same = new URLSearchParams(query);
  same.delete("offset");
  byId("jsonl").href = link(`chest-xray/results?${encoded(same)}`);
  same.set("format", "csv");
  byId("csv").href = link(`chest-xray/results?${encoded(same)}`);
}

function empty(list) {
  if (!list.complete) return ["The archive is still being read …"];
  if (filtered()) return ["Nothing in the archive matches these filters."];
  const upload = make("a", { href: link("app/explorer.html#upload") }, "Orthanc's upload page");
  return ["No radiograph has arrived here yet.", make("span", {}, "Send one by DICOM, by DICOMweb or through ", upload, ": CR and DX images are classified as soon as they arrive.")];
}

const filtered = () => FILTERS.some(name => name !== "sort" && query.get(name));

function pages({ total, rows }) {
  const offset = Number(query.get("offset")) || 0;
  if (!rows.length && offset && total) return go({ offset: Math.floor((total - 1) / PAGE) * PAGE }, true);
  byId("range").textContent = rows.length ? `${number(offset + 1)} to ${number(offset + rows.length)} of ${number(total)}` : "";
  byId("previous").disabled = offset === 0;
  byId("next").disabled = offset + rows.length >= total;
  byId("previous").parentElement.hidden = total <= PAGE && offset === 0;
  byId("csv").closest("footer").hidden = !total;
  return null;
}

function line(row, finding) {
  const name = person(row.PatientName) || row.PatientID || "Unnamed";
  const href = reportOf("instance", row.instance, finding ? { finding } : {});
  const top = finding ? row.scores[finding] : ranked(row.scores)[0]?.[1];
  return make("tr", { class: row.state, "data-instance": row.instance },
    make("td", { class: "patient" }, make("a", { href }, name)),
    make("td", { class: "id dim" }, row.PatientName ? row.PatientID : ""),
    make("td", { class: "day" }, date(row.StudyDate)),
    make("td", { class: "day" }, view(row.ViewPosition) || row.Modality),
    make("td", { class: "result" }, ...result(row)),
    make("td", { class: "top" }, ...(top === undefined ? [] : [bar(top), make("span", { class: "score" }, score(top))])),
    make("td", { class: "day dim" }, moment(row.created)));
}

/** A row for as long as the list does not know yet that it is classified once more. */
function asRetried(row) {
  if (retried.has(row.instance) && retried.get(row.instance) === row.created) return { ...row, state: "pending", reason: "" };
  retried.delete(row.instance);
  return row;
}

const linkOf = instance => document.querySelector(`tr[data-instance="${CSS.escape(instance)}"] a`);

function result(row) {
  if (row.state !== "done") {
    const text = row.state === "pending" ? "Classify" : "Try again";
    const button = (row.state === "pending" && !idle) || retried.has(row.instance) ? "" : make("button", { type: "button", "data-again": row.instance, "data-created": row.created, "aria-label": `${text}: ${person(row.PatientName) || row.PatientID}` }, text);
    return [make("span", { class: "badge" }, STATES[row.state] ?? row.state), make("span", { class: "reason" }, row.reason), button];
  }
  const found = ranked(row.scores).filter(([name]) => row.findings.includes(name)).map(([name]) => name);
  const more = found.length - CHIPS;
  return [...found.slice(0, CHIPS).map(name => make("span", { class: "finding" }, label(name))),
    more > 0 ? make("span", { class: "dim more", title: found.slice(CHIPS).map(label).join(", ") }, `and ${more} more`) : "",
    found.length ? "" : make("span", { class: "dim" }, "Nothing reaches 0.5"),
    row.warnings ? make("span", { class: "badge warned" }, count(row.warnings, "warning")) : "",
    row.weights !== "trained" ? make("span", { class: "badge stand-in" }, "stand-in") : ""];
}

const refresh = follow(update);

let typing = 0;
form.elements.patient.addEventListener("input", ({ target }) => {
  clearTimeout(typing);
  typing = setTimeout(() => go({ patient: target.value.trim() }, true), TYPING);
});
form.addEventListener("change", ({ target }) => {
  if (target.name !== "patient" && target.checkValidity()) go({ [target.name]: target.value });
});
form.addEventListener("submit", event => event.preventDefault());
byId("clear").addEventListener("click", () => go(Object.fromEntries(FILTERS.map(name => [name, ""]))));
byId("previous").addEventListener("click", () => turn(-PAGE));
byId("next").addEventListener("click", () => turn(PAGE));
addEventListener("popstate", () => {
  query = read();
  renew();
});

function turn(rows) {
  go({ offset: Math.max(0, (Number(query.get("offset")) || 0) + rows) });
  byId("table").scrollIntoView();
  byId("table").focus({ preventScroll: true });
}

byId("results").addEventListener("click", async event => {
  const button = event.target.closest("[data-again]"), row = event.target.closest("tr[data-instance]");
  if (button) {
    row.querySelector("a").focus({ preventScroll: true }); // a disabled button would lose it
    button.disabled = true;
    row.className = "pending";
    row.querySelector(".badge").textContent = STATES.pending;
    row.querySelector(".reason").textContent = "";
    retried.set(button.dataset.again, button.dataset.created);
    await again(button.dataset.again).catch(problem => {
      retried.delete(button.dataset.again);
      trouble(problem.message);
    });
    renew();
  } else if (row && !event.target.closest("a") && !getSelection().toString()) row.querySelector("a").click();
});
