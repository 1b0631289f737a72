// The page of results. Everything that comes from a DICOM file is set as text, never as HTML.
"use strict";

const root = location.origin + location.pathname.replace(/chest-xray\/?$/, "");
const chosen = new URLSearchParams(location.search); // ?study=, ?series= or ?instance= with Orthanc's id

function element(name, attributes, text) {
  const made = Object.assign(document.createElement(name), attributes);
  if (text !== undefined) made.textContent = text;
  return made;
}

async function ask(path) {
  const answer = await fetch(root + path, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}`);
  return answer;
}

async function results() {
  const instance = chosen.get("instance");
  if (instance) return [await (await ask(`instances/${encodeURIComponent(instance)}/chest-xray`)).json()];
  for (const level of ["study", "series"]) {
    if (!chosen.get(level)) continue;
    const plural = level === "study" ? "studies" : "series";
    const found = await (await ask(`${plural}/${encodeURIComponent(chosen.get(level))}/instances`)).json();
    const marks = await Promise.all(found.map(async one => (await ask(`instances/${one.ID}/chest-xray`)).json()));
    return marks.filter(mark => mark.state !== "skipped" || marks.length === 1);
  }
  const lines = await (await ask("chest-xray/results")).text();
  return lines.split("\n").filter(Boolean).map(line => JSON.parse(line));
}

function scoreItem([label, score]) {
  const item = document.getElementById("score").content.cloneNode(true);
  item.querySelector(".label").textContent = label.replaceAll("_", " ");
  const meter = item.querySelector("meter");
  meter.value = score;
  meter.title = score >= 0.5 ? "reaches the operating point" : "below the operating point";
  item.querySelector(".value").textContent = score.toFixed(3);
  return item;
}

function row(result) {
  const made = document.getElementById("row").content.cloneNode(true);
  const set = (name, text) => { made.querySelector(`.${name}`).textContent = text; };
  const image = result.image ?? {};
  set("created", result.created ? new Date(result.created).toLocaleString() : "");
  set("patient", image.PatientID ?? "");
  set("view", image.ViewPosition ?? "");
  set("state", result.reason ? `${result.state}: ${result.reason}` : result.state);
  const sorted = Object.entries(result.scores ?? {}).sort((a, b) => b[1] - a[1]);
  if (sorted.length) {
    const top = sorted.slice(0, 3).map(([label, score]) => `${label.replaceAll("_", " ")} ${score.toFixed(2)}`);
    made.querySelector("summary").textContent = top.join(", ");
    made.querySelector("ul").append(...sorted.map(scoreItem));
    if (result.model.weights !== "trained") made.querySelector(".state").textContent += ", stand-in weights";
    for (const warning of result.warnings) made.querySelector("details").append(element("p", {}, warning));
  } else {
    made.querySelector("details").remove();
  }
  const links = [
    ["JSON", `instances/${result.instance}/chest-xray`],
    ["Image", `app/explorer.html#instance?uuid=${result.instance}`],
    ...(result.sr ? [["Report (SR)", `app/explorer.html#instance?uuid=${result.sr.instance}`]] : []),
  ];
  for (const [text, path] of links) made.querySelector(".links").append(element("a", { href: root + path }, text), " ");
  return made;
}

async function show() {
  const found = (await results()).sort((a, b) => (b.created ?? "").localeCompare(a.created ?? ""));
  document.querySelector("tbody").replaceChildren(...found.map(row));
  document.getElementById("results").hidden = !found.length;
  document.getElementById("nothing").hidden = found.length > 0;
  document.getElementById("stand-in").hidden = !found.some(one => one.model && one.model.weights !== "trained");
}

async function status() {
  const now = await (await ask("chest-xray/status")).json();
  const counts = ["pending", "done", "skipped", "failed"].map(state => `${now[state]} ${state}`).join(", ");
  document.getElementById("status").textContent = (now.ready ? "Ready. " : `Not ready: ${now.reason}. `) + counts;
}

async function main() {
  try {
    await Promise.all([show(), status()]);
  } catch (problem) {
    document.getElementById("status").textContent = `The results could not be read: ${problem.message}`;
  }
}

main();
