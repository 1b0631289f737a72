// The report page of a study or series: its images side by side, and what was found before.
import { follow, json, link, reportOf, explorer } from "./api.js";
import { lines } from "./findings.js";
import { byId, count, date, fill, make, person, ranked, STAND_IN, STATES, view } from "./html.js";
import { trends } from "./trend.js";

const SOON = 1500, LATER = 20000, TOP = 5;

/** `of` is what /chest-xray/of/ says. */
export function studyPage(of) {
  byId("main").className = "many";
  const images = make("ul", { class: "images", role: "list" }), prior = make("section", { "aria-label": "Over time" });
  const orthanc = make("a", { href: explorer("study", of.study) }, "Study in Orthanc");
  byId("main").replaceChildren(images, prior, make("p", {}, orthanc));
  follow(async () => {
    const [list, before] = await Promise.all([json(`chest-xray/worklist?study=${encodeURIComponent(of.study)}&limit=500`), json(`chest-xray/prior?instance=${encodeURIComponent(of.instances[0])}`)]);
    const place = row => of.instances.indexOf(row.instance);
    const rows = list.rows.filter(row => place(row) >= 0).sort((a, b) => place(a) - place(b)); // as one image leads to the next
    if (!rows.length) {
      images.replaceChildren(make("li", { class: "empty", role: "status" }, list.complete ? "These images have been deleted from the archive." : "The archive is still being read."));
      return list.complete ? LATER : SOON;
    }
    describe(rows[0], rows.length);
    byId("stand-in").textContent = STAND_IN;
    byId("stand-in").hidden = !rows.some(row => row.weights && row.weights !== "trained");
    fill(images, ...rows.map(card));
    const charts = trends([...before.rows, ...list.rows], list.labels, of.instances);
    fill(prior, make("h2", {}, "Over time"), charts ?? make("p", { class: "dim" }, "No results of this patient from other days."),
      charts && make("p", { class: "dim" }, "A dot is an image, a large one an image of this study; the line joins the highest score of each day. The dashed line is the operating point, 0.5."));
    return rows.some(row => row.state === "pending") ? SOON : LATER;
  });
}

function describe(row, many) {
  const who = person(row.PatientName) || row.PatientID || "Unnamed patient";
  byId("title").textContent = who;
  fill(byId("subtitle"), ...[row.PatientName && row.PatientID, date(row.StudyDate), count(many, "image")].filter(Boolean).map(word => make("span", {}, word)));
  document.title = `${who}, chest X-ray reports`;
}

function card(row) {
  const name = view(row.ViewPosition) || row.Modality;
  const scores = ranked(row.scores);
  const reached = row.findings.length;
  const said = row.state === "done" ? `${count(reached, "finding")} of ${scores.length} ${reached === 1 ? "reaches" : "reach"} the operating point` : [STATES[row.state], row.reason].filter(Boolean).join(": ");
  return make("li", { class: row.state },
    make("a", { href: reportOf("instance", row.instance), "data-instance": row.instance },
      picture(row, name),
      make("span", { class: "name" }, name)),
    make("p", { class: "dim" }, `${said} `, row.warnings ? make("span", { class: "badge warned" }, count(row.warnings, "warning")) : ""), scores.length ? lines(scores.slice(0, TOP)) : null);
}

/** Orthanc 1.10 renders pixels that a file does not have, and may end with that: it is asked for what was read whole alone. */
function picture(row, name) {
  if (row.state !== "done") return make("span", { class: "none" }, "Not shown here");
  const src = link(`instances/${encodeURIComponent(row.instance)}/rendered?width=640&height=640`);
  return make("img", { src, alt: `Radiograph, ${name}`, loading: "lazy", width: 640, height: 640 });
}
