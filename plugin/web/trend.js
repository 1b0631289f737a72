// A patient's scores over the years: a small chart for each finding.
import { date, label, make, ranked, score, time } from "./html.js";

const WIDTH = 176, HEIGHT = 56, EDGE = 5;

function shape(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/**
 * Charts of all results (rows of the worklist) that have a date and scores, or null where there are fewer than two dates.
 * A dot is an image; the line joins the highest score of each day. The number is the highest of the images `here`.
 */
export function trends(rows, labels, here) {
  const results = [...new Map(rows.map(row => [row.instance, row])).values()]
    .filter(row => Object.keys(row.scores).length && !Number.isNaN(time(row.StudyDate)))
    .sort((a, b) => time(a.StudyDate) - time(b.StudyDate));
  const days = [...new Set(results.map(row => time(row.StudyDate)))];
  if (days.length < 2) return null;
  const now = results.filter(row => here.includes(row.instance));
  const latest = name => Math.max(...(now.length ? now : results.slice(-1)).map(row => row.scores[name] ?? 0));
  const order = ranked(Object.fromEntries(labels.map(name => [name, latest(name)])));
  return make("ul", { class: "trends", role: "list" }, ...order.map(([name, value]) => chart(name, value, results, days, here)));
}

function chart(name, value, results, days, here) {
  const known = results.filter(row => name in row.scores);
  const x = day => EDGE + ((day - days[0]) / (days.at(-1) - days[0])) * (WIDTH - 2 * EDGE), y = value => EDGE + (1 - value) * (HEIGHT - 2 * EDGE);
  const highest = days.map(day => [day, Math.max(...known.filter(row => time(row.StudyDate) === day).map(row => row.scores[name]))]).filter(([, top]) => top >= 0);
  const line = highest.map(([day, top], at) => `${at ? "L" : "M"}${x(day).toFixed(1)} ${y(top).toFixed(1)}`).join("");
  const dots = known.map(row => shape("circle", {
    cx: x(time(row.StudyDate)).toFixed(1), cy: y(row.scores[name]).toFixed(1), r: here.includes(row.instance) ? 4 : 2.5,
    class: row.scores[name] >= 0.5 ? "hit" : "miss",
  }, shape("title", {}, `${date(row.StudyDate)}: ${score(row.scores[name])}`)));
  const words = highest.map(([day, top]) => `${date(new Date(day).toISOString().slice(0, 10))} ${score(top)}`);
  return make("li", {},
    make("span", { class: "name", title: label(name) }, label(name)), make("span", { class: "score" }, score(value)),
    shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${label(name)}: ${words.join(", ")}` },
      shape("line", { x1: 0, x2: WIDTH, y1: y(0.5), y2: y(0.5), class: "point" }), shape("path", { d: line }), ...dots),
    make("span", { class: "date" }, date(results[0].StudyDate)), make("span", { class: "date" }, date(results.at(-1).StudyDate)));
}
