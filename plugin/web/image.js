// The report page of one image.
import { mapOf, picture, scale } from "./activation.js";
import { again, ask, encoded, explorer, follow, json, link, markOf, Refused, reportOf, trouble } from "./api.js";
import { chooser } from "./findings.js";
import { byId, count, date, fill, label, make, moment, number, person, asSentence, STAND_IN, STATES, view } from "./html.js";
import { trends } from "./trend.js";
import { load, windowOf } from "./values.js";
import { viewer } from "./viewer.js";
import { viewersOf } from "./viewers.js";

const SOON = 1500, LATER = 20000;
const OUTPUTS = { "secondary-capture": ["Report as a picture (PNG)", "preview"], pdf: ["Report to print (PDF)", "pdf"] };
const PREVIEW = "rendered?width=1024&height=1024";

/** `of` is what /chest-xray/of/ says of it. */
export async function imagePage(instance, of) {
  const [tags, first] = await Promise.all([json(`instances/${encodeURIComponent(instance)}/simplified-tags`), markOf(instance)]);
  describe(tags);
  byId("main").className = "one";
  const section = (id, name) => make("section", { id, "aria-label": name });
  byId("main").replaceChildren(section("viewer", "Radiograph"), make("div", { class: "panel" }, section("result", "Result"), section("more", "About this result")));
  const shown = showImage(instance, tags, first.state === "done");
  let last = "";
  follow(async () => {
    let mark;
    try {
      mark = await markOf(instance);
    } catch (problem) {
      if (!(problem instanceof Refused) || problem.status !== 404) throw problem;
      trouble("This image has been deleted from the archive. What you see is how it was.");
      return null;
    }
    if (JSON.stringify(mark) !== last) {
      last = JSON.stringify(mark);
      await showResult(mark, tags, of, shown);
    }
    showOthers(instance, (await json(`chest-xray/of/${encodeURIComponent(of.study)}`)).instances);
    return mark.state === "pending" ? SOON : LATER;
  });
}

function describe(tags) {
  const who = person(tags.PatientName) || tags.PatientID || "Unnamed patient";
  byId("title").textContent = who;
  const words = [tags.PatientName && tags.PatientID, date(tags.StudyDate ?? ""), tags.StudyDescription, view(tags.ViewPosition), tags.Modality];
  fill(byId("subtitle"), ...words.filter(Boolean).map(word => make("span", {}, word)));
  document.title = `${who}, chest X-ray report`;
}

/** The radiograph: a small picture at once if its pixels are `known` to be whole, the stored values as soon as they are there. */
function showImage(instance, tags, known) {
  const canvas = make("canvas", { tabindex: 0, role: "application", id: "radiograph", "aria-label": "Radiograph. Arrow keys move it, with Shift they change the window; plus and minus zoom, 0 resets, I inverts. Page Up and Page Down lead to the study's other images." });
  const readout = make("span", { class: "readout" }), note = make("p", { class: "note", role: "status", hidden: true });
  const say = sentence => {
    note.textContent = sentence;
    note.hidden = !sentence;
  };
  const frame = make("div", { class: "canvas" }, canvas);
  const shown = viewer(canvas, { rows: Number(tags.Rows) || 1, columns: Number(tags.Columns) || 1 }, now => {
    const look = now.center === undefined ? "" : `C ${number(Math.round(now.center))}  W ${number(Math.round(now.width))}  `;
    readout.textContent = `${look}${number(Math.round(now.zoom * 100))} %`;
  });
  const control = (text, title, action) => {
    const button = make("button", { type: "button", title, "aria-label": title }, text);
    button.addEventListener("click", () => action(button));
    return button;
  };
  const tools = [["window", "Window", "Drag to change the window: right for wider, down for darker"], ["move", "Move", "Drag to move the image (also with Shift or the right button)"]].map(([tool, text, title]) => {
    const button = control(text, title, () => {
      shown.setTool(tool);
      tools.forEach(other => other.setAttribute("aria-pressed", String(other === button)));
    });
    button.setAttribute("aria-pressed", String(tool === "window"));
    return button;
  });
  const bar = make("div", { class: "toolbar", role: "toolbar", "aria-label": "Image" },
    make("span", { class: "group" }, ...tools),
    make("span", { class: "group" }, control("−", "Smaller", () => shown.zoom(0.8)), control("+", "Larger", () => shown.zoom(1.25)),
      control("Fit", "Fit the whole image", shown.fit), control("1:1", "One pixel of the image for one of the screen", shown.actualSize)),
    make("span", { class: "group" }, control("Invert", "Invert black and white", shown.invert), control("Reset", "Reset window, zoom and place", shown.reset)),
    make("span", { class: "group", id: "others", hidden: true }));
  const label = make("p", { class: "watermark", id: "watermark", hidden: true }, "Stand-in weights: this means nothing");
  frame.append(label, note, readout);
  byId("viewer").replaceChildren(bar, frame);
  say("Loading the image …");
  loadImage(instance, tags, shown, known).then(say);
  return shown;
}

const came = location.hash.slice(1); // by which key from another image; the address is made anew
let others = "";

/** Ways to the images before and after this one in its study; what is chosen here stays chosen there, and the keyboard where it is. */
function showOthers(instance, all) {
  if (others === all.join()) return; // the keyboard may be there
  others = all.join();
  const at = all.indexOf(instance), place = byId("others"), canvas = byId("radiograph");
  const way = (id, text, title, other) => {
    const button = make("button", { type: "button", id, title, "aria-label": title, disabled: !other }, text);
    const go = from => other && location.assign(`${reportOf("instance", other, chosenHere())}${from}`);
    button.addEventListener("click", event => go(event.detail ? "" : `#${id}`)); // 0 from the keyboard
    return { button, go };
  };
  const previous = way("previous", "‹", "Previous image of the study (Page Up on the image)", all[at - 1]), next = way("next", "›", "Next image of the study (Page Down on the image)", all[at + 1]);
  place.hidden = all.length < 2 || at < 0;
  place.replaceChildren(previous.button, make("span", { class: "place" }, `${number(at + 1)} of ${number(all.length)}`), next.button);
  canvas.onkeydown = event => {
    const to = { PageUp: previous, PageDown: next }[event.key];
    if (!to || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    to.go("#radiograph");
  };
  const held = ["radiograph", "previous", "next"].includes(came) && byId(came);
  if (held && document.activeElement === document.body) (held.disabled ? canvas : held).focus();
}

function chosenHere() {
  const query = new URLSearchParams(location.search);
  return Object.fromEntries(["finding", "order"].filter(name => query.get(name)).map(name => [name, query.get(name)]));
}

/** Gives what is to be said of the image. Orthanc 1.10 renders pixels that a file does not have, and may end with that: not asked unless `known`. */
async function loadImage(instance, tags, shown, known) {
  const asRendered = "This image is shown as Orthanc renders it: its window cannot be changed.";
  const drawn = known && await preview(instance, shown);
  try {
    const values = await load(instance, Number(tags.PixelRepresentation) === 1, known);
    if (values) {
      shown.show(values, { ...windowOf(tags, values), inverted: tags.PhotometricInterpretation === "MONOCHROME1" });
      return "";
    }
  } catch (problem) {
    return drawn ? asRendered : `This image cannot be shown. ${problem.message}`;
  }
  if (!known) await preview(instance, shown); // Orthanc could read it
  return asRendered;
}

/** Whether there is one. */
async function preview(instance, shown) {
  const rendered = ask(`instances/${encodeURIComponent(instance)}/${PREVIEW}`, { headers: { Accept: "image/jpeg" } });
  const bitmap = await rendered.then(async answer => createImageBitmap(await answer.blob())).catch(() => null);
  shown.preview(bitmap);
  return Boolean(bitmap);
}

async function showResult(mark, tags, of, shown) {
  const standIn = mark.model && mark.model.weights !== "trained";
  for (const [place, sentence] of [["stand-in", STAND_IN], ["watermark", byId("watermark").textContent]]) {
    byId(place).textContent = sentence;
    byId(place).hidden = !standIn;
  }
  const queued = mark.state === "pending" && (await json("chest-xray/status")).queued > 0;
  byId("result").replaceChildren(...warnings(mark), ...(mark.state === "done" ? findings(mark, shown) : [state(mark, queued)]));
  if (mark.state !== "done") shown.overlay(null);
  byId("more").replaceChildren(await links(mark, tags, of), about(mark), make("div", { id: "prior" }));
  showPrior(mark, of);
}

function state(mark, queued) {
  const box = make("div", { class: `state ${mark.state}`, role: "status" }, make("h2", {}, STATES[mark.state] ?? mark.state), make("p", {}, asSentence(mark.reason ?? "")));
  if (queued) box.append(make("progress", { "aria-label": "Waiting" }), make("p", { class: "dim" }, "The scores appear here by themselves."));
  else box.append(retry(mark.instance, mark.state === "pending" ? "Classify" : "Try again"));
  return box;
}

function retry(instance, text) {
  const button = make("button", { type: "button" }, text);
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await again(instance);
      location.reload();
    } catch (problem) {
      trouble(problem.message);
      button.disabled = problem.status === 404;
    }
  });
  return button;
}

/** The bars, and the map of the finding that is chosen; which one it is and the order stand in the address. */
function findings(mark, shown) {
  const query = new URLSearchParams(location.search), labels = Object.keys(mark.scores);
  const legend = make("div", { class: "legend" }), place = make("div", {});
  let chosen = labels.includes(query.get("finding")) ? query.get("finding") : "", byScore = query.get("order") !== "model", marked = () => {};

  const remember = (key, value) => {
    const now = new URLSearchParams(location.search);
    if (value) now.set(key, value);
    else now.delete(key);
    history.replaceState(null, "", `?${encoded(now)}`);
  };
  const choose = name => {
    chosen = name;
    remember("finding", name);
    marked(name);
    const map = name && mark.activation ? mapOf(mark.activation, labels.indexOf(name)) : null;
    shown.overlay(map && { picture: picture(map), crop: mark.activation.crop });
    explain(name, map);
  };
  const slider = make("input", { type: "range", min: 0, max: 100, value: 60, id: "opacity" });
  slider.addEventListener("input", () => shown.opacity(slider.value / 100));
  shown.opacity(0.6);
  const gradient = make("canvas", { "aria-hidden": "true" });
  scale(gradient);

  function explain(name, map) {
    if (!map) {
      const sentence = mark.activation ? "Choose a finding to see where in the image the evidence for it lies." : "This result has no activation maps; classify the image again to have them.";
      legend.replaceChildren(make("p", { class: "dim" }, sentence));
      return;
    }
    const highest = Math.max(...map);
    const none = make("p", {}, `No part of the image speaks for ${label(name)}: nothing is coloured.`);
    const colours = make("div", { class: "scale" }, make("span", {}, "0"), gradient, make("span", {}, number(Number(highest.toPrecision(2)))));
    legend.replaceChildren(make("h3", {}, `Evidence for ${label(name)}`), highest > 0 ? colours : none,
      make("label", { class: "slider", for: "opacity" }, "Opacity ", slider),
      make("p", { class: "dim" }, "Evidence against the finding is not coloured. The colours end at this map's own highest value: compare places, not findings. The dashed square is what the model saw, in 7 by 7 cells."));
  }
  function order() {
    const made = chooser(mark.scores, byScore, choose);
    marked = made.mark;
    marked(chosen);
    place.replaceChildren(made.list);
  }
  const select = make("select", { id: "order" }, make("option", { value: "" }, "by score"), make("option", { value: "model" }, "in the model's order"));
  select.value = byScore ? "" : "model";
  select.addEventListener("change", () => {
    byScore = !select.value;
    remember("order", select.value);
    order();
  });
  order();
  choose(chosen);
  return [make("div", { class: "head" }, make("h2", {}, "Findings"), make("label", { class: "dim", for: "order" }, "Sorted "), select),
    place, make("p", { class: "dim axis" }, "The line is the operating point, 0.5. A score is not a probability of disease."), legend];
}

const warnings = mark => (mark.warnings ?? []).length
  ? [make("div", { class: "warning" }, make("h2", {}, count(mark.warnings.length, "warning")), make("ul", {}, ...mark.warnings.map(one => make("li", {}, one))))] : [];

async function links(mark, tags, of) {
  const path = `instances/${encodeURIComponent(mark.instance)}/`;
  const all = [
    ["Image in Orthanc", explorer("instance", mark.instance)], ["Study in Orthanc", explorer("study", of.study)],
    ...(mark.sr ? [["Report (DICOM SR) in Orthanc", explorer("instance", mark.sr.instance)], ["SR file", link(`instances/${encodeURIComponent(mark.sr.instance)}/file`)]] : []),
    ...(mark.outputs ?? []).filter(one => one.kind in OUTPUTS).map(one => [OUTPUTS[one.kind][0], link(`instances/${encodeURIComponent(one.instance)}/${OUTPUTS[one.kind][1]}`)]),
    ["JSON", link(`${path}chest-xray`)], ["DICOM file", link(`${path}file`)], ["All images of the study", reportOf("study", of.study)],
    ...await viewersOf(tags.StudyInstanceUID),
  ];
  return make("nav", { "aria-label": "Links" }, make("h2", {}, "Links"), make("ul", {}, ...all.map(([text, href]) => make("li", {}, make("a", { href }, text)))));
}

function about(mark) {
  const pairs = [
    ["Classified", moment(mark.created)], ["Model", mark.model && `${mark.model.name}, TorchXRayVision ${mark.model.version}`],
    ["Weights", mark.model && `${mark.model.weights}, SHA-256 ${mark.model.weights_sha256}`],
    ["Settings", Object.entries(mark.settings ?? {}).map(([key, value]) => `${key}: ${value}`).join(", ")],
    ["Time taken", mark.milliseconds && Object.entries(mark.milliseconds).map(([step, time]) => `${step} ${number(Math.round(time))} ms`).join(", ")],
    ["SOPInstanceUID", mark.image?.SOPInstanceUID],
  ].filter(([, value]) => value);
  if (!pairs.length) return "";
  const made = make("details", {}, make("summary", {}, make("h2", {}, "How it was made")), make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));
  if (mark.state === "done") made.append(retry(mark.instance, "Classify again"));
  return made;
}

async function showPrior(mark, of) {
  const place = byId("prior");
  try {
    const [prior, own] = await Promise.all([json(`chest-xray/prior?instance=${encodeURIComponent(mark.instance)}`), json(`chest-xray/worklist?study=${encodeURIComponent(of.study)}`)]);
    const charts = trends([...prior.rows, ...own.rows], own.labels, [mark.instance]);
    place.append(...(charts ? [make("h2", {}, "Over time"), charts] : [make("p", { class: "dim" }, "No results of this patient from other days.")]));
  } catch (problem) {
    place.append(make("p", { class: "dim" }, `Earlier results could not be read: ${problem.message}`));
  }
}
